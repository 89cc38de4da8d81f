"""Training on Ray: the result of one process, no cell lost or repeated by faults, and mistakes told in one line.

Tests with `ray_local` need a Ray: the process groups that Ray Train starts, and what it does when one of them is lost,
are what they ask about. The others ask the driver alone.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TINY
from recorded_training import cells_of_epochs, records, train_recorded
from safetensors.torch import load_file

from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.training.on_ray import WorkerError, _raise_unless_lost
from cfgen_dist.training.run import train
from data_loaders import open_atlas
from data_loaders.errors import BadInput

SETTINGS = {
    **TINY, "autoencoder.max_epochs": 6, "autoencoder.batch_size": 32, "flow.max_steps": 80, "refit": False,
    "checkpoint_every_n_steps": 5,
}  # fmt: skip
EPOCH = 14  # steps: 432 training cells in batches of 32
# Held-out nats per cell. What differs between numbers of workers is the order of the cells and the draws of dropout, as
# between seeds: their standard deviation was 0.16, over six of them.
TOLERANCE = 0.5


@pytest.fixture(scope="module")
def alone(tiny_atlas, tmp_path_factory):
    """The run of one process without Ray, and its held-out likelihood."""
    out, threads = tmp_path_factory.mktemp("alone") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    model = train(tiny_atlas, out, load_config(overrides=SETTINGS))
    torch.set_num_threads(threads)
    return out, held_out(model)


def held_out(model):
    return model.provenance["training"]["val_nll"]


def check_cells(folder, atlas, epochs=6):
    """Every epoch of the autoencoder showed every training cell once, whatever happened meanwhile."""
    expected = open_atlas(atlas).rows(split="train").tolist()
    seen = cells_of_epochs(folder)
    for epoch in range(epochs):
        assert sorted(seen[0, epoch]) == expected, f"epoch {epoch}"
    flow = [rows for (stage, _), rows in sorted(seen.items()) if stage == 2]
    for rows in flow[:-1]:  # the last one ends with the steps
        assert len(rows) == len(set(rows)) == len(expected)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_worker_does_what_one_process_does(ray_local, alone, tiny_atlas, tmp_path):
    """Equal to the last bit: Ray only starts the process."""
    train(tiny_atlas, tmp_path / "run", load_config(overrides=SETTINGS), ray="local", workers=1)
    for stage in ("autoencoder", "flow"):
        weights = [load_file(run / "bundle" / f"{stage}.safetensors") for run in (alone[0], tmp_path / "run")]
        for name in weights[0]:
            torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=0)


def check_run(run):
    """Speed and waiting are told, and what was only needed on the way is gone."""
    metrics = pd.read_csv(run / "autoencoder" / "metrics.csv")
    assert (metrics["cells_per_second"].dropna() > 0).all()
    assert metrics["loader_wait"].dropna().between(0, 1).all()
    assert list((run / "autoencoder" / "tensorboard").glob("events*"))
    assert "2 workers started" in (run / "train.log").read_text()
    assert not (run / "ray").exists()
    assert not (run / "latents.zarr.parts").exists()


@pytest.mark.slow  # starting workers takes most of a minute; the next test asks for the same in spite of a fault
def test_two_workers_reach_the_same(ray_local, alone, tiny_atlas, tmp_path):
    model = train_recorded(tiny_atlas, tmp_path / "run", tmp_path, SETTINGS, workers=2)
    assert held_out(model) == pytest.approx(alone[1], abs=TOLERANCE)
    check_cells(tmp_path, tiny_atlas)
    check_run(tmp_path / "run")
    assert {record["rank"] for record in records(tmp_path)} == {0, 1}


def test_a_killed_worker_costs_the_steps_since_the_checkpoint(ray_local, alone, tiny_atlas, tmp_path, caplog):
    def kill():
        wait_for(lambda: any(r["step"] == EPOCH + 7 for r in records(tmp_path)))
        os.kill(next(r["pid"] for r in records(tmp_path) if r["rank"] == 1), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    model = train_recorded(tiny_atlas, tmp_path / "run", tmp_path, SETTINGS | {"all_reduce": "bfloat16"}, workers=2)
    killer.join()
    starts = sorted({record["start"] for record in records(tmp_path)})
    assert len(starts) == 2, "the workers were started again"
    again = min(r["step"] for r in records(tmp_path) if r["start"] == starts[1] and r["stage"] == 0)
    assert again % 5 == 0, "at a checkpoint"
    assert again >= EPOCH
    assert "starting again from the last checkpoint" in caplog.text
    check_cells(tmp_path, tiny_atlas)
    check_run(tmp_path / "run")
    assert held_out(model) == pytest.approx(alone[1], abs=TOLERANCE)


@pytest.mark.slow  # three starts; benchmarks/elastic.py has more of the kind
def test_workers_that_come_and_a_notice_cost_no_step(ray_local, alone, tiny_atlas, tmp_path, monkeypatch, caplog):
    """One worker while others hold the cluster, two when it is free, then SIGTERM to one of them; 5,000 steps from any
    checkpoint that is due, so that every step that is not done twice was saved on purpose."""
    monkeypatch.setattr("cfgen_dist.training.on_ray.GROW_AFTER", 1.0)
    caplog.set_level("INFO", "cfgen_dist")

    @ray_local.remote(num_cpus=2)
    class Held:
        def there(self):
            return True

    held = Held.remote()
    assert ray_local.get(held.there.remote())

    def act():
        wait_for(lambda: any(r["step"] >= 5 for r in records(tmp_path)))
        ray_local.kill(held)
        wait_for(lambda: any(r["ranks"] == 2 and r["rank"] == 1 for r in records(tmp_path)), 600)
        os.kill(next(r["pid"] for r in records(tmp_path) if r["rank"] == 1), signal.SIGTERM)

    acting = threading.Thread(target=act)
    acting.start()
    long = SETTINGS | {"autoencoder.max_epochs": 20, "autoencoder.patience": 20, "checkpoint_every_n_steps": 5000}
    train_recorded(tiny_atlas, tmp_path / "run", tmp_path, long, workers="1:2")
    acting.join()
    starts = sorted({r["start"] for r in records(tmp_path)})
    assert len(starts) == 3
    assert [{r["ranks"] for r in records(tmp_path) if r["start"] == start} for start in starts] == [{1}, {2}, {2}]
    steps = [(r["stage"], r["step"], r["rank"]) for r in records(tmp_path)]
    assert len(steps) == len(set(steps)), "no step is done twice"
    assert "there is room for 1 more workers" in caplog.text
    check_cells(tmp_path, tiny_atlas, epochs=20)


@pytest.mark.slow  # a minute and a half; benchmarks/faults.py has this drill too, and more
def test_a_killed_driver_is_resumed_on_other_workers(ray_local, alone, tiny_atlas, tmp_path):
    """Two workers to the middle of an epoch, three from there on."""
    run = tmp_path / "run"
    arguments = {"atlas": str(tiny_atlas), "out": str(run), "folder": str(tmp_path), "settings": SETTINGS, "workers": 2}
    script = Path(__file__).parents[2] / "support" / "recorded_training.py"
    driver = subprocess.Popen([sys.executable, script, json.dumps(arguments)], stderr=subprocess.DEVNULL)
    wait_for(lambda: any(r["step"] == EPOCH + 7 for r in records(tmp_path)))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    workers = {r["pid"] for r in records(tmp_path)}
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not (run / "autoencoder" / "weights.safetensors").exists()
    with pytest.raises(BadInput, match=r"holds a run already: `resume=True` continues it"):
        train(tiny_atlas, run, load_config(overrides=SETTINGS), ray="local", workers=3)
    model = train_recorded(tiny_atlas, run, tmp_path, SETTINGS, workers=3, resume=True)
    assert {r["ranks"] for r in records(tmp_path)} == {2, 3}
    check_cells(tmp_path, tiny_atlas)
    assert held_out(model) == pytest.approx(alone[1], abs=TOLERANCE)


@pytest.mark.slow  # benchmarks/faults.py has this one too; what is told is decided in the function tested next
def test_a_worker_that_raises_is_told_in_one_line(ray_local, tiny_atlas, tmp_path, monkeypatch):
    """The cause, which is rank 1's, and not what rank 0 says when it finds rank 1 gone."""
    import cfgen_dist.training.on_ray as on_ray

    def failing(settings):
        from cfgen_dist.training import on_ray, ranks, trainer

        def fail(self, trainer, module, batch, batch_idx):
            if ranks.rank() == 1 and trainer.global_step == 3:
                raise ZeroDivisionError("by\nzero")

        trainer.SeedEveryStep.on_train_batch_start = fail
        return on_ray.work_as_rank(settings)

    monkeypatch.setattr(on_ray, "work_as_rank", failing)
    message = r"^worker 1 failed: ZeroDivisionError: by zero; the traceback is in .*errors\.log$"
    with pytest.raises(WorkerError, match=message):
        train(tiny_atlas, tmp_path / "run", load_config(overrides=SETTINGS), ray="local", workers=2)
    assert "ZeroDivisionError" in (tmp_path / "run" / "errors.log").read_text()


@pytest.mark.parametrize(
    "cause", [BadInput("cells.zarr: chunk 3 is damaged"), OSError(errno.ENOSPC, "No space left on device", "x.ckpt")]
)
def test_a_mistake_or_a_full_disk_is_raised_as_it_is(tmp_path, cause):
    """Rank 1 failed first, however Ray numbers its failures; rank 0 only noticed that it was gone."""
    noticed = RuntimeError("[gloo] Connection closed by peer")
    noticed.failed_at, cause.failed_at = 2.0, 1.0
    with pytest.raises(type(cause)) as error:
        _raise_unless_lost({0: noticed, 1: cause}, tmp_path)
    assert error.value is cause
    _raise_unless_lost({0: noticed}, tmp_path)  # a lost peer is a reason to start again


def test_a_finished_run_is_left_alone(ray_local, tiny_atlas, tiny_run, capsys):
    before = sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*"))
    command = ["train", str(tiny_atlas), "--out", str(tiny_run), "--ray", "local"]
    assert main([*command, "--resume"]) == 0
    assert main(command) == 2
    assert "holds a run already: --resume continues it" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in tiny_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers is 2, but only --ray has workers: expected --ray auto, local or HOST:PORT"),
        (["--ray", "local", "--workers", "0"], "--workers is 0, expected at least 1"),
        (["--ray", "local", "--workers", "300"], "workers is 300, but autoencoder.batch_size is 128"),
        (["--ray", "local", "--cpus-per-worker", "0"], "--cpus-per-worker is 0, expected at least 1"),
        (["--ray", "local", "--cpus-per-worker", "64"], "1 workers with 64 CPU each need 64, but this machine's"),
        (["--ray", "local", "--gpus-per-worker", "1"], "1 workers with 1 GPU each need 1, but this machine's"),
        (["--ray", "auto", "--gpus-per-worker", "1"], "1 workers with 1 GPU each need 1, but this machine's"),
    ],
)
def test_impossible_workers_are_refused(ray_local, tiny_atlas, tmp_path, capsys, options, message):
    assert main(["train", str(tiny_atlas), "--out", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_the_job_is_the_command(tiny_atlas, tiny_run):
    job = [sys.executable, Path(__file__).parents[3] / "jobs" / "train.py", tiny_atlas, "--out", tiny_run]
    done = subprocess.run([*map(str, job), "--resume"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, f"{tiny_run}/bundle")


@pytest.mark.heavy
def test_it_imports_and_trains_without_ray(tiny_atlas, tmp_path):
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from cfgen_dist.cli import main\n"
        "arguments = [*sys.argv[1:], '--autoencoder.max_epochs', '1', '--flow.max_steps', '5']\n"
        "print(main([*arguments, '--out', 'run']), main([*arguments, '--out', 'other', '--ray', 'local']))\n"
    )
    command = [sys.executable, "-c", script, "train", str(tiny_atlas), "--accelerator", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split()[-2:] == ["0", "2"], done.stderr
    assert "Ray is not installed; pip install 'cfgen-dist[ray]'" in done.stderr
    assert (tmp_path / "run" / "bundle").is_dir()
    assert not (tmp_path / "other").exists()
