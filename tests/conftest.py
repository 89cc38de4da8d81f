"""What several tests need: the shared real data, a small atlas, a small trained run."""

import os
from pathlib import Path

import pytest

# Tests run beside each other on few cores: more threads only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "2")

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
def tiny_atlas(tmp_path_factory):
    """600 cells x 120 genes, labels cell_type (3) and donor (2)."""
    from data_loaders import simulate

    path = tmp_path_factory.mktemp("atlas") / "tiny.zarr"
    simulate(path, cells=600, genes=120, types=3, donors=2, density=0.3, seed=1)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_atlas, tmp_path_factory):
    """A run trained for a few steps on the tiny atlas."""
    from cfgen_dist.config import load_config
    from cfgen_dist.training.run import train

    run = tmp_path_factory.mktemp("run") / "tiny"
    train(tiny_atlas, run, load_config(overrides=TINY))
    return run
