"""Streams: what is yielded, in what order, and how it resumes."""

import itertools
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from data_loaders import CellStream, LatentWriter, open_atlas
from data_loaders.errors import BadInput
from data_loaders.reading.rows import DENSE_BYTES, _densified_on_device

N, G = 1_003, 40


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    matrix = rng.poisson(0.3, (N, G)) * rng.integers(1, 90, (N, G))
    matrix[:, 0] += 1  # no empty cell
    return scipy.sparse.csr_matrix(matrix.astype(np.float32))


@pytest.fixture(scope="module")
def atlas(counts, tmp_path_factory):
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["b", "nk", "t"], N, p=[0.05, 0.15, 0.8])),
            "donor": pd.Categorical([None, *rng.choice(["d1", "d2"], N - 1)]),
            "split": pd.Categorical(rng.choice(["train", "test"], N, p=[0.8, 0.2])),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    path = tmp_path_factory.mktemp("store") / "atlas.zarr"
    anndata.AnnData(counts, obs).write_zarr(path)
    return open_atlas(path)


BUFFERS = {"in memory": 1 << 30, "in windows": 1 << 13}


@pytest.mark.parametrize("buffer_bytes", BUFFERS.values(), ids=BUFFERS)
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_shows_every_cell_once_with_its_counts_and_labels(atlas, counts, buffer_bytes, world_size):
    streams = [
        CellStream(atlas, 32, labels=["cell_type"], rank=r, world_size=world_size, buffer_bytes=buffer_bytes)
        for r in range(world_size)
    ]
    ranks = [list(stream) for stream in streams]
    assert {len(batches) for batches in ranks} == {len(streams[0])}
    seen = []
    for batch in itertools.chain(*ranks):
        assert 1 <= len(batch) <= 32
        np.testing.assert_array_equal(batch.counts["rna"].to_scipy().toarray(), counts[batch.rows].toarray())
        np.testing.assert_array_equal(batch.labels["cell_type"], atlas.codes("cell_type")[batch.rows])
        np.testing.assert_array_equal(batch.size_factor, counts[batch.rows].sum(1).A1)
        assert batch.labels["cell_type"].dtype == np.int64
        assert batch.size_factor.dtype == np.float32
        seen.append(batch.rows)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(N))


@pytest.mark.parametrize("buffer_bytes", BUFFERS.values(), ids=BUFFERS)
def test_epochs_advance_by_themselves_and_can_be_set(atlas, buffer_bytes):
    stream = CellStream(atlas, 50, buffer_bytes=buffer_bytes)
    first, second = order(stream), order(stream)
    assert stream.epoch == 2
    assert not np.array_equal(first, second)
    stream.epoch = 1
    np.testing.assert_array_equal(order(stream), second)


def test_without_shuffle_the_order_is_that_of_the_store(atlas):
    for buffer_bytes in BUFFERS.values():
        stream = CellStream(atlas, 50, shuffle=False, split="train", buffer_bytes=buffer_bytes)
        np.testing.assert_array_equal(order(stream), atlas.rows("train"))
        np.testing.assert_array_equal(order(stream), atlas.rows("train"))


def test_subsets_by_split_and_rows(atlas):
    rows = np.array([900, 7, 12, 500])
    np.testing.assert_array_equal(np.sort(order(CellStream(atlas, 3, rows=rows))), np.sort(rows))
    both = order(CellStream(atlas, 10, split="test", rows=np.arange(500)))
    np.testing.assert_array_equal(np.sort(both), np.intersect1d(atlas.rows("test"), np.arange(500)))


@pytest.mark.parametrize("buffer_bytes", BUFFERS.values(), ids=BUFFERS)
@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"balance": "cell_type"}, {"split": "train"}], ids=str)
def test_resuming_yields_exactly_what_was_not_seen(atlas, buffer_bytes, options):
    def make(rank):
        return CellStream(atlas, 40, rank=rank, world_size=2, buffer_bytes=buffer_bytes, **options)

    whole = [batch.rows for batch in make(1)] + [batch.rows for batch in epoch(make(1), 1)]
    for stop in (1, 4, len(make(0)) - 1, len(make(0)), len(make(0)) + 2):
        stream = make(0)  # its state resumes every rank
        batches = itertools.chain(stream, stream)
        for _ in range(stop):
            next(batches)
        state = stream.state_dict()
        resumed = make(1)
        resumed.load_state_dict(state)
        rest = [batch.rows for batch in resumed]
        if resumed.epoch == 1:
            rest += [batch.rows for batch in resumed]
        assert len(rest) == len(whole) - stop
        for got, expected in zip(rest, whole[stop:], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_an_iteration_broken_off_is_continued_unless_the_order_is_fixed(atlas):
    whole = order(CellStream(atlas, 100))
    stream = CellStream(atlas, 100)
    first = next(iter(stream)).rows
    np.testing.assert_array_equal(np.concatenate([first, order(stream)]), whole)
    assert stream.epoch == 1
    stream = CellStream(atlas, 100, shuffle=False)
    next(iter(stream))
    np.testing.assert_array_equal(order(stream), np.arange(N))


def test_a_state_of_other_cells_or_options_is_refused(atlas):
    state = CellStream(atlas, 50).state_dict()
    for changed in ({"seed": 1}, {"split": "train"}, {"balance": "cell_type"}, {"shuffle": False}):
        with pytest.raises(BadInput, match="another store, selection, batch size or seed"):
            CellStream(atlas, 50, **changed).load_state_dict(state)


def test_another_world_size_resumes_only_between_epochs(atlas):
    stream = CellStream(atlas, 50)
    batches = iter(stream)
    next(batches)
    with pytest.raises(BadInput, match="batch 1 of an epoch on 1 ranks; on 2 ranks"):
        CellStream(atlas, 50, world_size=2).load_state_dict(stream.state_dict())
    list(batches)
    state = stream.state_dict()
    streams = [CellStream(atlas, 50, rank=rank, world_size=2) for rank in range(2)]
    for each in streams:
        each.load_state_dict(state)
    assert [each.epoch for each in streams] == [1, 1]
    np.testing.assert_array_equal(np.sort(np.concatenate([order(each) for each in streams])), np.arange(N))


def test_balanced_and_weighted_streams(atlas):
    stream = CellStream(atlas, 50, balance="cell_type", labels=["cell_type"])
    shown = np.bincount(np.concatenate([batch.labels["cell_type"] for batch in stream]))
    assert shown.max() - shown.min() <= 1
    weights = np.zeros(N)
    weights[[3, 8]] = 1
    assert set(order(CellStream(atlas, 50, weights=weights))) == {3, 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "has no category 'trian'; did you mean 'train'?"),
        ({"labels": ["cel_type"]}, "no obs column 'cel_type'; did you mean 'cell_type'?"),
        ({"labels": ["donor"]}, "obs column 'donor' has no value for 1 selected cells"),
        ({"rows": [1, 1]}, "rows name 1 cells twice"),
        ({"rows": [0, N]}, f"rows run from 0 to {N}; .* has rows 0 to {N - 1}"),
        ({"rows": [0.5]}, "expected a list of row numbers"),
        ({"rows": []}, "0 cells selected"),
        ({"weights": np.ones(3)}, r"weights have shape \(3,\); expected"),
        ({"weights": np.ones(N), "balance": "cell_type"}, "both `balance` and `weights`"),
        ({"modalities": ["atac"]}, "no modality 'atac'"),
    ],
)
def test_mistakes_are_named(atlas, options, message):
    with pytest.raises(BadInput, match=message):
        CellStream(atlas, 10, **options)


def test_batches_as_tensors(atlas, counts):
    batch = next(iter(CellStream(atlas, 64, labels=["cell_type"]))).to("cpu")
    dense = batch.counts["rna"].to_dense()
    assert dense.dtype.is_floating_point
    np.testing.assert_array_equal(dense.numpy(), counts[batch.rows.numpy()].toarray())
    assert batch.labels["cell_type"].dtype.itemsize == 8
    np.testing.assert_array_equal(batch.size_factor.numpy(), dense.sum(1).numpy())


def test_densifying_on_a_device_and_on_the_host_agree(atlas):
    rows = atlas.read(np.arange(N))
    big = rows.take(np.arange(N * 150) % N)  # enough for threads
    assert big.shape[0] * big.n_features * 4 > DENSE_BYTES
    for each in (rows, big):
        np.testing.assert_array_equal(_densified_on_device(each.to("cpu")).numpy(), each.to_dense().numpy())
    dense = rows.to_dense()
    first = dense[0].clone()
    rows.take(np.arange(N)[::-1].copy()).to_dense()
    np.testing.assert_array_equal(dense[0].numpy(), first.numpy())  # memory in use is not used again


def test_latents_are_streamed_like_counts(atlas, tmp_path):
    rng = np.random.default_rng(2)
    latents = rng.normal(size=(N, 7)).astype(np.float32)
    with LatentWriter(tmp_path / "latents.zarr", atlas, 7) as writer:
        for batch in CellStream(atlas, 300, split="train", shuffle=False):
            writer.append(latents[batch.rows], batch.rows)
    store = open_atlas(tmp_path / "latents.zarr")
    assert store.modalities == ("latent",)
    assert store.n_cells == len(atlas.rows("train"))
    row = store.obs("row")
    for buffer_bytes in (1 << 30, 1 << 12):
        shown = []
        for batch in CellStream(store, 64, labels=["cell_type"], buffer_bytes=buffer_bytes):
            np.testing.assert_array_equal(batch.latent, latents[row[batch.rows]])
            np.testing.assert_array_equal(batch.labels["cell_type"], atlas.codes("cell_type")[row[batch.rows]])
            np.testing.assert_array_equal(batch.size_factor, atlas.size_factor[row[batch.rows]])
            shown.append(batch.rows)
        np.testing.assert_array_equal(np.sort(np.concatenate(shown)), np.arange(store.n_cells))
    assert anndata.read_zarr(tmp_path / "latents.zarr").shape == (store.n_cells, 7)


def test_latents_appear_whole_or_not_at_all(atlas, tmp_path):
    def write():
        with LatentWriter(tmp_path / "latents.zarr", atlas, 2) as writer:
            writer.append(np.zeros((1, 2)), np.array([0]))
            writer.append(np.array([[0, np.nan]]), np.array([1]))

    with pytest.raises(BadInput, match=r"latent of row 1 of .* is not finite"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_importing_the_package_and_streaming_needs_no_torch(atlas):
    code = (
        "import sys; from data_loaders import open_atlas, CellStream; "
        f"list(CellStream(open_atlas({atlas.name!r}), 100)); "
        "print([name for name in ('torch', 'ray', 'tiledbsoma', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def order(stream):
    """Rows of the stream's next epoch."""
    return np.concatenate([batch.rows for batch in stream])


def epoch(stream, number):
    stream.epoch = number
    return stream
