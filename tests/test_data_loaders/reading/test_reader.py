"""Any rows of a matrix in any layout come back as they were written."""

import os

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_data import COMPRESSORS, cells, genes, random_counts, write_anndata, write_atlas, write_v3

from data_loaders import open_atlas
from data_loaders.parallel import cores, run_all
from data_loaders.reading import value_checks
from data_loaders.reading.buffers import SMALLEST, Buffers
from data_loaders.reading.chunks import SlicedArray, ZarrChunks, open_chunks
from data_loaders.reading.reader import plan_runs

COUNTS = random_counts()


def assert_rows(atlas, counts, rows, modality=None):
    read = atlas.read(np.asarray(rows), modality)
    np.testing.assert_array_equal(read.to_scipy().toarray(), counts[rows].toarray())
    return read


def any_rows(n):
    rng = np.random.default_rng(5)
    return [
        np.arange(n),
        np.arange(n)[::-1],
        rng.permutation(n)[: n // 3],
        np.array([0]),
        np.array([n - 1, n - 1, 0, 3, 3]),
        np.array([], int),
    ]


@pytest.mark.parametrize("compressors", COMPRESSORS, ids=str)
@pytest.mark.parametrize("shard", [None, 900, 90_000], ids=["no shards", "many shards", "one shard"])
def test_zarr_v3(tmp_path, compressors, shard):
    write_v3(tmp_path / "a.zarr", COUNTS, chunk=300, shard=shard, compressors=COMPRESSORS[compressors])
    atlas = open_atlas(tmp_path / "a.zarr")
    kind = SlicedArray if compressors == "two codecs" else ZarrChunks
    assert isinstance(atlas.reader()._data, kind)
    for rows in any_rows(COUNTS.shape[0]):
        assert_rows(atlas, COUNTS, rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32, np.float64])
def test_zarr_v2_and_types(tmp_path, dtype):
    counts = random_counts(dtype=np.uint8).astype(dtype)
    atlas = open_atlas(write_anndata(tmp_path / "a.zarr", counts))
    for rows in any_rows(counts.shape[0]):
        assert assert_rows(atlas, counts, rows).data.dtype == min(np.dtype(dtype), np.dtype(np.uint16), key=by_size)
    assert atlas.read(np.array([1])).indices.dtype == np.uint16


def by_size(dtype):
    return dtype.itemsize


@pytest.mark.parametrize("value", [70_000.0, 2.0**31 - 128])
def test_large_counts_widen_what_is_read(tmp_path, value, monkeypatch):
    monkeypatch.setattr(value_checks, "FIRST_VALUES", 10)
    for at in (0, 2_500):  # seen when the store is opened, or only when it is read
        counts = COUNTS.astype(np.float32)
        counts.data[at] = value
        path = write_v3(tmp_path / f"{at}.zarr", counts, chunk=300)
        atlas = open_atlas(path)
        plain = write_v3(tmp_path / f"{at} plain.zarr", COUNTS.astype(np.float32))
        joined = open_atlas([plain, path])
        low, rows = np.arange(10), np.arange(500)
        assert atlas.read(low).data.dtype == (np.uint16 if at else np.uint32)
        for _ in range(2):
            read = atlas.read(rows)
            assert read.data.dtype == np.uint32
            np.testing.assert_array_equal(read.to_scipy().toarray(), counts.toarray())
        np.testing.assert_array_equal(joined.read(rows).to_scipy().toarray(), COUNTS.toarray())
        np.testing.assert_array_equal(joined.read(rows + 500).to_scipy().toarray(), counts.toarray())
        np.testing.assert_array_equal(atlas.read(low).to_scipy().toarray(), counts[low].toarray())


def test_h5ad(tmp_path):
    obs, var = cells(COUNTS.shape[0]), genes(COUNTS.shape[1])
    anndata.AnnData(COUNTS, obs, var).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    atlas = open_atlas(tmp_path / "a.h5ad")
    for rows in any_rows(COUNTS.shape[0]):
        assert_rows(atlas, COUNTS, rows)
    assert atlas.categories("cell_type") == ["b", "nk", "t"]


def test_our_store(tmp_path):
    counts = write_atlas(tmp_path / "a.zarr", COUNTS)
    atlas = open_atlas(tmp_path / "a.zarr")
    for rows in any_rows(counts.shape[0]):
        assert assert_rows(atlas, counts, rows).data.dtype == np.uint16
    np.testing.assert_array_equal(anndata.read_zarr(tmp_path / "a.zarr").X.toarray(), counts.toarray())


def test_dense_matrix(tmp_path):
    for name, store in (("a.zarr", "write_zarr"), ("a.h5ad", "write_h5ad")):
        adata = anndata.AnnData(COUNTS.toarray(), cells(COUNTS.shape[0]), genes(COUNTS.shape[1]))
        getattr(adata, store)(tmp_path / name)
        atlas = open_atlas(tmp_path / name)
        for rows in any_rows(COUNTS.shape[0]):
            assert_rows(atlas, COUNTS, rows)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    chunk_len=st.integers(1, 30),
    run_bytes=st.integers(1, 200),
    data=st.data(),
)
def test_runs_cover_every_piece_once(lengths, chunk_len, run_bytes, data):
    ends = np.cumsum(lengths)
    starts = ends - lengths
    keep = np.flatnonzero(lengths)
    keep = keep[np.array([data.draw(st.booleans()) for _ in keep], bool)]
    source = np.arange(ends[-1])
    chunks = SlicedArray(source, "numbers")
    chunks.chunk_len = chunk_len
    seen = []
    for first, stop, low, high in plan_runs(chunks, starts[keep], ends[keep], run_bytes):
        values, base = chunks.read(first, stop), first * chunk_len
        for i in range(low, high):
            a, b = max(starts[keep][i], base), min(ends[keep][i], base + len(values))
            assert a < b
            seen.append(values[a - base : b - base])
    expected = [np.arange(a, b) for a, b in zip(starts[keep], ends[keep], strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate([*seen, []])), np.sort(np.concatenate([*expected, []])))


def test_a_missing_chunk_of_first_columns_is_no_damage(tmp_path):
    """Zarr leaves out a chunk of zeros: right for column numbers when each row has at most one value in it."""
    counts = scipy.sparse.csr_matrix(([5, 6, 7, 8], [3, 4, 0, 0], [0, 2, 3, 4]), shape=(3, 6)).astype(np.uint8)
    write_v3(tmp_path / "a.zarr", counts, chunk=2)
    assert not (tmp_path / "a.zarr" / "X" / "indices" / "c" / "1").exists()
    assert_rows(open_atlas(tmp_path / "a.zarr"), counts, np.arange(3))


def test_unusual_arrays_are_read_by_slices(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(10)
        assert isinstance(open_chunks(file["x"], None, "x"), SlicedArray)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 4), chunks=(2, 2), dtype="f4")
    assert isinstance(open_chunks(array, object(), "x"), SlicedArray)
    array = zarr.create_array(tmp_path / "b.zarr", shape=(4,), chunks=(2,), dtype=">i4")
    assert isinstance(open_chunks(array, object(), "x"), SlicedArray)


def test_buffers_are_used_again_only_when_free():
    buffers = Buffers()
    first = buffers.empty(SMALLEST, np.uint8)
    address = first.ctypes.data
    part = first[10:20]
    del first
    second = buffers.empty(SMALLEST, np.uint8)
    assert second.ctypes.data != address
    del part
    assert buffers.empty(SMALLEST, np.uint8).ctypes.data == address
    held = [buffers.empty(SMALLEST, np.uint16) for _ in range(10)]
    assert len({each.ctypes.data for each in held}) == 10


def test_the_first_error_of_the_pool_is_raised_after_all_tasks_ended():
    done = []

    def work(number):
        if number == 1:
            raise KeyError("one")
        done.append(number)

    with pytest.raises(KeyError, match="one"):
        run_all(work, [(number,) for number in range(6)], 3)
    assert sorted(done) == [0, 2, 3, 4, 5]


def test_ranks_on_one_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    all_cores = cores()
    assert all_cores == len(os.sched_getaffinity(0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cores() == max(1, all_cores // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10 * all_cores))
    assert cores() == 1
