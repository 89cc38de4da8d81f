"""Machines that come and go while a model trains with `--workers 1:3`: steps lost, seconds to the first new step.

    python benchmarks/elastic.py [--json FILE]

A cluster of processes that act as machines, one worker each. One training lives through all events: a machine comes, a
worker is killed, a worker gets SIGTERM, a machine is to be taken away (`ray drain-node`), a machine is lost. Then a
training whose driver gets SIGTERM, resumed, and one of one process without Ray. Steps lost are steps done twice.
`cells` says whether every epoch of the model that came out had shown every training cell exactly once, by row number.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0")
os.environ.setdefault(
    "RAY_memory_monitor_refresh_ms", "0"
)  # what others do with the memory of this machine is no event
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import ray
from common import base_parser, report
from ray.cluster_utils import Cluster
from recorded_training import cells_of_epochs, records, train_recorded

import cfgen_dist.training.on_ray as on_ray
from cfgen_dist import load_config, train
from data_loaders import open_atlas, simulate
from data_loaders.errors import Interrupted

SETTINGS = {
    "autoencoder.max_epochs": 16, "autoencoder.patience": 16, "autoencoder.hidden": [64, 32],
    "autoencoder.latent_dim": 10, "autoencoder.batch_size": 128, "flow.max_steps": 200, "flow.hidden": 64,
    "flow.blocks": 2, "refit": False, "checkpoint_every_n_steps": 50, "accelerator": "cpu",
}  # fmt: skip
BETWEEN = 30  # steps from a start to the next event: less than those between checkpoints
GROW_AFTER = 5.0  # seconds; 60 unless set otherwise
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4,
         "health_check_timeout_ms": 500}  # fmt: skip
MEMORY = {"object_store_memory": 100 << 20}


def main():
    parser = base_parser(__doc__)
    args = parser.parse_args()
    on_ray.GROW_AFTER = GROW_AFTER
    figures = []
    print("| event | workers before, after | steps lost | s to the first new step |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="elastic-", dir="/tmp") as folder:
        folder = Path(folder)
        atlas = folder / "atlas.zarr"
        simulate(atlas, cells=8000, genes=300, types=4, donors=2, density=0.2, seed=0)
        for drill in (one_process, stopped_driver, machines):
            for row in drill(folder / drill.__name__, atlas):
                show(row)
                figures.append(row)
    report(args, {"events": figures})


def show(row):
    """Print one event, or the outcome of a training, in one line."""
    if "exact" in row:
        cells = "exact" if row["exact"] else "WRONG"
        print(f"{row['event']}: cells of every epoch {cells}, held-out NLL {row['nll']:.2f}", flush=True)
    else:
        print(
            f"| {row['event']} | {row['before']}, {row['after']} | {row['lost']} | {row['seconds']:.0f} |", flush=True
        )


def machines(folder, atlas):
    """One training on a cluster that changes under it."""
    folder.mkdir()
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK, **MEMORY}
    cluster = Cluster(True, head_node_args=head)
    nodes = [cluster.head_node]
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    outcome = {}
    try:
        training = threading.Thread(
            target=lambda: outcome.update(model=train_recorded(atlas, folder / "run", folder, SETTINGS, workers="1:3"))
        )
        training.start()
        when = []

        def add():
            nodes.append(cluster.add_node(num_cpus=1, **MEMORY))

        def lose():
            cluster.remove_node(nodes.pop(), allow_graceful=False)

        events = [
            ("a machine comes", add),
            ("another one comes", add),
            ("SIGKILL of a worker", lambda: os.kill(worker(folder), signal.SIGKILL)),
            ("SIGTERM to a worker", lambda: os.kill(worker(folder), signal.SIGTERM)),
            ("notice of 120 s, the machine goes", lambda: drain(cluster, nodes)),
            ("a machine is lost", lose),
        ]
        for n, (_, act) in enumerate(events):
            wait_for(folder, n, training)
            when.append(time.time())
            act()
        training.join()
        yield from rows(folder, [name for name, _ in events], when)
        yield account("one training through all of them", folder, atlas, outcome["model"])
    finally:
        ray.shutdown()
        cluster.shutdown()


def drain(cluster, nodes):
    """Tell Ray that the last machine will be taken away in two minutes, and take it away once nobody works there."""
    node = nodes.pop()
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "120"], check=True, capture_output=True)


def stopped_driver(folder, atlas):
    """SIGTERM to the driver of two workers of a cluster of its own; then the same command with --resume."""
    folder.mkdir()
    few = SETTINGS | {"autoencoder.max_epochs": 4, "flow.max_steps": 50}
    given = {"atlas": str(atlas), "out": str(folder / "run"), "folder": str(folder), "settings": few, "workers": "1:2"}
    command = [sys.executable, train_recorded.__code__.co_filename]
    driver = subprocess.Popen([*command, json.dumps(given)], stderr=subprocess.PIPE, text=True)
    wait_for(folder, 0, driver)
    when = time.time()
    driver.send_signal(signal.SIGTERM)
    said = driver.communicate()[1]
    assert "nothing is lost" in said, said[-500:]
    ended = time.time() - when
    again = subprocess.run([*command, json.dumps(given | {"resume": True})], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-500:]
    name = f"SIGTERM to the driver (it ended after {ended:.0f} s), `--resume`"
    yield from rows(folder, [name], [when])


def one_process(folder, atlas):
    """SIGTERM to a training without Ray in the middle of an epoch; resumed, it is the training that nobody stopped."""
    folder.mkdir()
    few = load_config(overrides=SETTINGS | {"autoencoder.max_epochs": 2, "flow.max_steps": 50})
    whole = train(atlas, folder / "whole", few)
    threading.Timer(0, lambda: terminate_at(folder / "run" / "autoencoder" / "metrics.csv")).start()
    when = time.time()
    stopped = None
    try:
        train(atlas, folder / "run", few)
    except Interrupted as error:
        stopped = error
    assert "nothing is lost" in str(stopped), stopped
    resumed = train(atlas, folder / "run", resume=True)
    same = whole.provenance["training"] == resumed.provenance["training"]
    print(f"one process, stopped and resumed in {time.time() - when:.0f} s: {'the same' if same else 'ANOTHER'} result")
    yield from ()


def terminate_at(path):
    """SIGTERM to this process once the file is there."""
    while not path.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def starts_of(folder):
    """Records of the autoencoder's and the flow's steps of each start, in order."""
    by_start = {}
    for line in records(folder):
        by_start.setdefault(line["start"], []).append(line)
    return [by_start[start] for start in sorted(by_start)]


def wait_for(folder, n, process):
    """Return when the start after n events has done enough steps."""
    while True:
        lines = starts_of(folder)
        if len(lines) > n and len({line["step"] for line in lines[n]}) >= BETWEEN:
            return
        ended = not process.is_alive() if isinstance(process, threading.Thread) else process.poll() is not None
        if ended:
            raise SystemExit(f"the training ended before event {n + 1}")
        time.sleep(0.2)


def worker(folder):
    """Process of the last rank."""
    lines = starts_of(folder)[-1]
    return next(line["pid"] for line in lines if line["rank"] == line["ranks"] - 1)


def rows(folder, names, when):
    """A row for each event: steps that were done twice, seconds until a step that was not."""
    parts = starts_of(folder)
    for name, moment, old, new in zip(names, when, parts, parts[1:], strict=False):
        done = max(place(line) for line in old)
        first = min(place(line) for line in new)
        lost = done[1] - first[1] + 1 if done[0] == first[0] else 0
        fresh = min(line["time"] for line in new if place(line) > done)
        yield {"event": name, "before": old[-1]["ranks"], "after": new[-1]["ranks"],
               "lost": max(lost, 0), "seconds": fresh - moment}  # fmt: skip


def place(line):
    return line["stage"], line["step"]


def account(event, folder, atlas, model):
    expected = open_atlas(atlas).rows(split="train").tolist()
    seen = cells_of_epochs(folder)
    exact = all(sorted(seen[0, epoch]) == expected for epoch in range(SETTINGS["autoencoder.max_epochs"]))
    return {"event": event, "exact": exact, "nll": model.provenance["training"]["val_nll"]}


if __name__ == "__main__":
    main()
