"""Faults while training on Ray: how each training ends, what work is lost, how long it takes to go on.

    python benchmarks/faults.py [--json FILE]

Every drill trains the same small model on two workers of this machine and breaks something in the middle of an epoch.
`cells` says whether every epoch of the model that came out had shown every training cell exactly once, by row number.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from common import base_parser, report
from recorded_training import cells_of_epochs, records, train_recorded

from cfgen_dist import load_config, train
from cfgen_dist.training.on_ray import WorkerError
from cfgen_dist.workers.cluster import connect
from data_loaders import open_atlas, simulate
from data_loaders.errors import BadInput

SETTINGS = {
    "autoencoder.max_epochs": 12, "autoencoder.patience": 12, "autoencoder.hidden": [64, 32],
    "autoencoder.latent_dim": 10, "autoencoder.batch_size": 128, "flow.max_steps": 200, "flow.hidden": 64,
    "flow.blocks": 2, "refit": False, "checkpoint_every_n_steps": 20,
}  # fmt: skip
BREAK_AT = 70  # step of the autoencoder; an epoch has 45


def main():
    parser = base_parser(__doc__)
    args = parser.parse_args()
    print(f"{'fault':44}{'outcome':52}{'steps lost':>11}{'s to go on':>11}{'cells':>8}{'NLL':>9}")
    figures = []
    with tempfile.TemporaryDirectory(prefix="faults-", dir="/tmp") as folder:
        for row in drills(Path(folder), args.quick):
            show(row)
            figures.append(row)
    report(args, {"drills": figures})


def show(row):
    """Print one drill in one line."""
    lost, seconds = row.get("lost", ""), row.get("seconds")
    exact = {True: "exact", False: "WRONG"}.get(row.get("exact"), "")
    nll = f"{row['nll']:.2f}" if "nll" in row else ""
    print(f"{row['fault']:44}{row['outcome']:52}{lost!s:>11}"
          f"{'' if seconds is None else f'{seconds:.0f}':>11}{exact:>8}{nll:>9}", flush=True)  # fmt: skip


def drills(folder, quick):
    """One dict a drill, as they end."""
    atlas = folder / "atlas.zarr"
    simulate(atlas, cells=8000, genes=300, types=4, donors=2, density=0.2, seed=0)
    for seed in [0] if quick else [0, 1, 2, 3, 4]:
        model = train(atlas, folder / f"alone-{seed}", load_config(overrides={**SETTINGS, "seed": seed}))
        nll = model.provenance["training"]["val_nll"]
        yield {"fault": f"none, one process, seed {seed}", "outcome": "finished", "nll": nll}
    with connect("local", 3):
        yield drill(folder, atlas, "none, two workers", lambda: None)
        for rank in (1,) if quick else (1, 0):
            yield drill(folder, atlas, f"SIGKILL of worker {rank}", rank)
        for raised in (OSError(errno.ENOSPC, "No space left on device"), ZeroDivisionError("division by zero")):
            yield raising(folder, atlas, raised)
        if os.geteuid() == 0:
            yield full_disk(folder, atlas)
        for workers in (2, 3):
            yield killed_driver(folder, atlas, workers)
        yield finished(folder, atlas)
    yield lost_node(folder, atlas)


def drill(folder, atlas, fault, rank):
    """Two workers, one of them killed (none when `rank` is no number)."""
    out = new_folder(folder)
    when = []
    if isinstance(rank, int):
        killer = threading.Thread(target=lambda: when.append(kill_worker(out, rank)))
        killer.start()
    model = train_recorded(atlas, out / "run", out, SETTINGS, workers=2)
    return {"fault": fault, "outcome": "finished", **account(out, atlas, model, *when)}


def raising(folder, atlas, raised):
    """A worker that raises in every attempt: told once, not tried again."""
    import cfgen_dist.training.on_ray as on_ray

    out = new_folder(folder)

    def failing(settings):
        from cfgen_dist.training import on_ray, ranks, trainer

        def fail(self, trainer, module, batch, batch_idx):
            if ranks.rank() == 1 and trainer.global_step == BREAK_AT:
                raise raised

        trainer.SeedEveryStep.on_train_batch_start = fail
        return on_ray.work_as_rank(settings)

    original, on_ray.work_as_rank = on_ray.work_as_rank, failing
    try:
        train(atlas, out / "run", load_config(overrides=SETTINGS), ray="local", workers=2)
        outcome = "WRONG: finished"
    except (OSError, WorkerError) as error:
        outcome = f"ends: {str(error)[:40]}"
    finally:
        on_ray.work_as_rank = original
    return {"fault": f"a worker raises {type(raised).__name__}", "outcome": outcome}


def full_disk(folder, atlas):
    """The run on a disk with room for one checkpoint and a half, then with room, and resumed."""
    out = new_folder(folder)
    disk = out / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        try:
            train_recorded(atlas, disk / "run", out, SETTINGS, workers=2)
            outcome = "WRONG: finished"
        except OSError as error:
            outcome = f"ends: {error.strerror}; finished after --resume with room"
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        model = train_recorded(atlas, disk / "run", out, SETTINGS, workers=2, resume=True)
        return {"fault": "the disk is full", "outcome": outcome, **account(out, atlas, model)}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # a worker that is on its way out keeps its log open


def killed_driver(folder, atlas, workers):
    """The driver of a cluster of its own dies, and with it the cluster; the same command with --resume goes on."""
    out = new_folder(folder)
    given = {"atlas": str(atlas), "out": str(out / "run"), "folder": str(out), "settings": SETTINGS, "workers": 2}
    script = Path(train_recorded.__code__.co_filename)
    driver = subprocess.Popen([sys.executable, script, json.dumps(given)])
    wait_for(out)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    when = time.time()
    pids = {line["pid"] for line in records(out)}
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    model = train_recorded(atlas, out / "run", out, SETTINGS, workers=workers, resume=True)
    fault = "SIGKILL of the driver" + ("" if workers == 2 else f", resumed on {workers} workers")
    return {"fault": fault, "outcome": "finished after --resume", **account(out, atlas, model, when)}


def finished(folder, atlas):
    """The same command once more after success."""
    out = new_folder(folder)
    settings = load_config(overrides={**SETTINGS, "autoencoder.max_epochs": 1, "flow.max_steps": 5})
    train(atlas, out / "run", settings)
    try:
        train(atlas, out / "run", settings, ray="local", workers=2)
        outcome = "WRONG: trained again"
    except BadInput:
        outcome = "refused; with --resume nothing is done"
    return {"fault": "the command again after success", "outcome": outcome}


def lost_node(folder, atlas):
    """A cluster of three machines (processes that act as such): one with a worker goes, and another one comes."""
    import ray
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4,
             "health_check_timeout_ms": 500}  # fmt: skip
    memory = {"object_store_memory": 100 << 20}
    cluster = Cluster(
        True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick, **memory}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, **memory)]
        ray.init(cluster.address, log_to_driver=False, logging_level="error")
        out = new_folder(folder)
        with ThreadPoolExecutor(1) as pool:  # machines are added by the main thread: Ray sets signal handlers
            training = pool.submit(train_recorded, atlas, out / "run", out, SETTINGS, workers=2)
            wait_for(out)
            cluster.remove_node(nodes[0], allow_graceful=False)
            when = time.time()
            cluster.add_node(num_cpus=1, **memory)
            model = training.result()
        return {"fault": "a machine is lost, another one comes", "outcome": "finished",
                **account(out, atlas, model, when)}  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()


def account(out, atlas, model, when=None):
    """Cells of every epoch, steps done twice, seconds until the first new step after `when`."""
    expected = open_atlas(atlas).rows(split="train").tolist()
    seen = cells_of_epochs(out)
    exact = all(sorted(seen[0, epoch]) == expected for epoch in range(SETTINGS["autoencoder.max_epochs"]))
    figures = {"exact": exact, "nll": model.provenance["training"]["val_nll"]}
    starts = sorted({line["start"] for line in records(out)})
    if len(starts) > 1:
        old, new = ([line for line in records(out) if line["start"] == start] for start in starts[-2:])
        stage = min(line["stage"] for line in new)
        before = [line["step"] for line in old if line["stage"] == stage]
        figures["lost"] = max(before) - min(line["step"] for line in new if line["stage"] == stage) + 1
        if when:
            figures["seconds"] = min(line["time"] for line in new) - when
    return figures


def kill_worker(out, rank):
    """SIGKILL the worker of this rank in the middle of an epoch; returns when."""
    wait_for(out)
    os.kill(next(line["pid"] for line in records(out) if line["rank"] == rank), signal.SIGKILL)
    return time.time()


def wait_for(out):
    """Return when the autoencoder has come to the step where things break."""
    while not any(line["stage"] == 0 and line["step"] >= BREAK_AT for line in records(out)):
        time.sleep(0.02)


def new_folder(folder):
    return Path(tempfile.mkdtemp(dir=folder))


if __name__ == "__main__":
    main()
