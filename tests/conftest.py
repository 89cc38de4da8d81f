"""What several tests need: the shared real data, a small atlas, a small trained run, a Ray; and who runs which test.

Tests run in several processes (`make test`). A file's tests stay in one process, so that its fixtures are made once,
and all tests that need Ray run in one process, with one Ray: a start costs 15 seconds. What all files share is made by
the process that needs it first.
"""

import fcntl
import os
from pathlib import Path

import pytest

# Tests run beside each other on few cores: more threads only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {
    "autoencoder.max_epochs": 3,
    "autoencoder.hidden": [32, 16],
    "autoencoder.latent_dim": 8,
    "flow.max_steps": 60,
    "flow.hidden": 32,
    "flow.blocks": 2,
    "flow.embedding": 16,
    "accelerator": "cpu",
}
# Files with tests that are not slow and need Ray; slow ones run in one process.
NEED_RAY = (
    "generation/test_workers.py", "training/test_on_ray.py", "tuning/test_run.py", "test_jobs/test_jobs.py",
)  # fmt: skip


def pytest_itemcollected(item):
    """All tests of trained models and of Ray are heavy."""
    if {"tiny_run", "ray_local"} & set(item.fixturenames):
        item.add_marker(pytest.mark.heavy)


def pytest_collection_modifyitems(items):
    """Begin with the longest group: nothing is left to do beside it at the end."""
    items.sort(key=lambda item: group(item.nodeid) != "ray")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A process takes one file after another, and one of them all files that need Ray."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid)

    return ByGroup(config, log)


def group(nodeid):
    """Tests of the same group run in the same process."""
    file = nodeid.split("::")[0]
    return "ray" if file.endswith(NEED_RAY) else file


@pytest.fixture(scope="session")
def real_data():
    """Folder of real count data that lies beside the repository on the machines that have it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "pbmc3k.h5ad").is_file():
        pytest.skip(f"REAL DATA ABSENT: no pbmc3k.h5ad in {folder}; this test has not run")
    return folder


@pytest.fixture
def small_pieces(monkeypatch):
    """Several blocks and several buckets at ingest, although the data are small."""
    from data_loaders.ingestion import buckets
    from data_loaders.sources import matrices

    monkeypatch.setattr(matrices, "BLOCK_VALUES", 100)
    monkeypatch.setattr(buckets, "BUCKET_VALUES", 200)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """shared(name, make): a folder that `make(path)` fills, once for all processes that run tests, and none changes."""
    folder, known = tmp_path_factory.getbasetemp(), {}
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all processes

    def get(name, make):
        path, done = folder / "shared" / name, folder / "shared" / f"{name}.done"
        path.parent.mkdir(exist_ok=True)
        with open(f"{path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(path)
                done.touch()
        known[path] = state(path)
        return path

    yield get
    for path, before in known.items():
        assert state(path) == before, f"a test has changed {path.name}, which all tests share: let it work on a copy"


def state(folder):
    """Size and time of every file."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3-compatible server on this machine."""
    from buckets import start_server

    server = start_server()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A fresh bucket, to be reached from here and from processes started here; see `buckets.TestBucket`."""
    from buckets import TestBucket

    made = TestBucket(s3_server)
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DATA_LOADERS_STORAGE", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return made


@pytest.fixture(scope="session")
def tiny_atlas(shared):
    """600 cells x 120 genes, labels cell_type (3) and donor (2)."""
    from data_loaders import simulate

    options = {"cells": 600, "genes": 120, "types": 3, "donors": 2, "density": 0.3, "seed": 1}
    return shared("tiny.zarr", lambda path: simulate(path, **options))


@pytest.fixture(scope="session")
def tiny_run(tiny_atlas, shared):
    """A run trained for a few steps on the tiny atlas."""
    from cfgen_dist.config import load_config
    from cfgen_dist.training.run import train

    return shared("tiny", lambda path: train(tiny_atlas, path, load_config(overrides=TINY)))


@pytest.fixture(scope="session")
def ray_local():
    """One local Ray of three CPUs for all tests that need one; `--ray local` finds and uses the connection."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    from cfgen_dist.workers.cluster import connect

    with connect("local", workers=3) as ray:
        yield ray
