"""Streams in `torch.utils.data.DataLoader`, in its workers too, and pickled as Ray does."""

import pickle
import subprocess
import sys

import cloudpickle
import mudata
import numpy as np
import pytest
import tiledbsoma.io as soma_io
from ingest_helpers import ingested, write_zarr
from small_data import small_adata, write_10x_h5

from data_loaders import BadInput, CellStream, open_atlas

pytestmark = pytest.mark.heavy
LABELS = {"ours": ["cell_type"], "zarr": ["cell_type"], "h5ad": ["cell_type"], "soma": ["cell_type"]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    adata = small_adata(n_cells=200)
    adata.write_h5ad(folder / "h5ad.h5ad")
    write_zarr(adata, folder / "zarr.zarr", 3)
    soma_io.from_anndata(str(folder / "soma"), adata, measurement_name="RNA")
    write_10x_h5(folder / "tenx.h5", adata, version=3)
    mudata.MuData({"rna": adata}).write(folder / "both.h5mu")
    ingested(folder, folder / "h5ad.h5ad", labels=["cell_type"])
    return {
        "ours": folder / "out.zarr", "zarr": folder / "zarr.zarr", "h5ad": folder / "h5ad.h5ad",
        "soma": folder / "soma", "tenx": folder / "tenx.h5", "mudata": folder / "both.h5mu",
        "joined": [folder / "zarr.zarr", folder / "h5ad.h5ad"],
    }  # fmt: skip


def stream_of(where, kind="h5ad", **options):
    return CellStream(
        open_atlas(where), 16, labels=LABELS.get(kind, ()), **{"buffer_bytes": 5_000, "seed": 1} | options
    )


def shown(batches):
    """Rows, counts and labels of batches, as plain lists."""
    return [
        (batch.rows.tolist(), batch.counts["rna"].to_scipy().toarray().tolist(), batch.size_factor.tolist(),
         {name: codes.tolist() for name, codes in batch.labels.items()})
        for batch in batches
    ]  # fmt: skip


def loader(stream, workers, start="fork", **options):
    from torch.utils.data import DataLoader

    context = {"multiprocessing_context": start} if workers else {}
    return DataLoader(stream, batch_size=None, num_workers=workers, **context, **options)


@pytest.mark.parametrize("kind", ["ours", "zarr", "h5ad", "soma", "tenx", "mudata", "joined"])
@pytest.mark.parametrize("buffer_bytes", [5_000, 1 << 27])
def test_forked_workers_show_every_cell_once_in_the_order_of_the_stream(stores, kind, buffer_bytes):
    stream = stream_of(stores[kind], kind, buffer_bytes=buffer_bytes)
    expected = shown(stream)
    rows = [row for batch in expected for row in batch[0]]
    assert sorted(rows) == list(range(stream.atlas.n_cells))
    for workers in (0, 2, 3):
        stream.epoch = 0
        assert shown(loader(stream, workers)) == expected, workers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "h5ad", "soma", "joined"])
def test_spawned_workers_too(stores, kind):
    expected = shown(stream_of(stores[kind], kind))
    assert shown(loader(stream_of(stores[kind], kind), 2, "spawn")) == expected


def test_epochs_in_workers(stores):
    stream = stream_of(stores["ours"], "ours")
    epochs = [shown(stream) for _ in range(3)]
    stream.epoch = 0
    kept = loader(stream, 2, persistent_workers=True)
    assert [shown(kept) for _ in range(3)] == epochs
    for epoch in (2, 0):
        stream.epoch = epoch
        assert shown(loader(stream, 2)) == epochs[epoch]


def test_without_workers_the_loader_moves_the_stream_on(stores):
    stream = stream_of(stores["h5ad"])
    epochs = [shown(stream) for _ in range(2)]
    stream.epoch = 0
    alone = loader(stream, 0)
    assert [shown(alone) for _ in range(2)] == epochs


@pytest.mark.parametrize("workers", [0, 2])
def test_a_position_is_continued_in_workers(stores, workers):
    stream = stream_of(stores["ours"], "ours")
    expected = shown(stream)
    stream.epoch = 0
    seen, running = [], iter(stream)
    for _ in range(5):
        seen += shown([next(running)])
    state = stream.state_dict()
    again = stream_of(stores["ours"], "ours")
    again.load_state_dict(state)
    assert seen + shown(loader(again, workers)) == expected


def test_ranks_and_workers_together(stores):
    rows = []
    for rank in range(2):
        stream = stream_of(stores["h5ad"], rank=rank, world_size=2)
        rows += [row for batch in loader(stream, 2) for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(200))


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("kind", ["ours", "zarr", "h5ad", "soma", "tenx", "mudata", "joined"])
def test_a_pickled_stream_goes_on_where_it_was(stores, kind, dumps):
    stream = stream_of(stores[kind], kind)
    running = iter(stream)
    for _ in range(3):
        next(running)
    copy = pickle.loads(dumps(stream))
    assert copy.state_dict() == stream.state_dict()
    assert copy.atlas.n_cells == stream.atlas.n_cells
    assert shown(copy) == shown(running)


def test_options_of_the_opening_are_pickled_too(stores):
    atlas = open_atlas(stores["h5ad"], obs_filter="age > 50", missing_values="NK")
    copy = pickle.loads(cloudpickle.dumps(atlas))
    np.testing.assert_array_equal(copy.read(np.arange(9)).data, atlas.read(np.arange(9)).data)
    assert copy.categories("cell_type") == atlas.categories("cell_type") == ["B", "T"]
    assert copy.fingerprint == atlas.fingerprint


def test_a_store_that_changed_since_it_was_pickled_is_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    small_adata().write_h5ad(path)
    kept = pickle.dumps(open_atlas(path))
    small_adata(n_cells=50).write_h5ad(tmp_path / "other.h5ad")
    (tmp_path / "other.h5ad").replace(path)
    with pytest.raises(BadInput, match="other cells than when it was opened"):
        pickle.loads(kept).read(np.arange(3))


FORK = """
import gc, os, sys
import numpy as np
from data_loaders import open_atlas

atlas = open_atlas(sys.argv[1])
atlas.read(np.arange(200))
cycle = [atlas]
cycle.append(cycle)
gc.disable()
if sys.argv[2] == "garbage":
    del cycle, atlas
child = os.fork()
if child == 0:
    if sys.argv[2] == "forgotten":
        cycle.clear()
        del atlas
    gc.collect()
    os._exit(0)
os._exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("left", ["garbage", "forgotten"])
def test_a_forked_child_does_not_wait_for_the_threads_of_tiledb(stores, left):
    """A context of TileDB that is freed waits for its threads, which a forked child does not have."""
    ended = subprocess.run([sys.executable, "-c", FORK, str(stores["soma"]), left], timeout=60, check=False)
    assert ended.returncode == 0
