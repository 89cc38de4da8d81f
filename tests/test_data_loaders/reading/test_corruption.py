"""Damage of every kind is an error that names store, array and chunk. Never silent zeros."""

import shutil
import time

import anndata
import numpy as np
import pytest
import zarr
from store_data import COMPRESSORS, random_counts, write_anndata, write_atlas, write_v3

from data_loaders import CellStream, open_atlas
from data_loaders.errors import BadInput

COUNTS = random_counts()


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """One store of each kind, by name."""
    folder = tmp_path_factory.mktemp("intact")
    write_atlas(folder / "ours", COUNTS)
    write_anndata(folder / "v2", COUNTS)
    write_v3(folder / "v3", COUNTS, chunk=300)
    write_v3(folder / "sharded", COUNTS, chunk=300, shard=1_500, compressors=COMPRESSORS["blosc"])
    return folder


@pytest.fixture
def store(intact, tmp_path, request):
    path = tmp_path / "store.zarr"
    shutil.copytree(intact / request.param, path)
    return path


def chunk_files(path, array):
    folder = path / "X" / array
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith((".z", "zarr")))


def read_all(path):
    atlas = open_atlas(path)
    return atlas.read(np.arange(atlas.n_cells))


KINDS = ("ours", "v2", "v3", "sharded")


@pytest.mark.parametrize("store", KINDS, indirect=True)
@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_a_missing_file(store, array):
    chunk_files(store, array)[-1].unlink()
    with pytest.raises(BadInput, match=rf"store.zarr: X/{array}: chunk \d+ is missing".replace(": X/", ": X/")):
        read_all(store)


@pytest.mark.parametrize("store", KINDS, indirect=True)
@pytest.mark.parametrize("array", ["data", "indices"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_file_cut_short(store, array, keep):
    file = chunk_files(store, array)[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BadInput, match=rf"store.zarr: X/{array}: (chunk \d+|the index of the file|chunks in the file)"):
        read_all(store)


@pytest.mark.parametrize("store", ["ours"], indirect=True)
@pytest.mark.parametrize("array", ["data", "indices", "indptr"])
def test_any_flipped_byte_is_seen_by_the_checksums_of_our_store(store, array):
    file = chunk_files(store, array)[0]
    content = bytearray(file.read_bytes())
    used = np.flatnonzero(np.frombuffer(bytes(content), np.uint8) != 0xFF)  # the index of a shard is mostly 0xFF
    for position in used[:: len(used) // 12]:
        content[position] ^= 0x10
        file.write_bytes(content)
        words = rf"X/{array}(: chunk \d+ has a wrong checksum|: the index of the file| cannot be read: the file)"
        with pytest.raises(BadInput, match=words):
            read_all(store)
        content[position] ^= 0x10
    file.write_bytes(content)
    read_all(store)


@pytest.mark.parametrize("store", ["sharded"], indirect=True)
def test_garbage_in_a_store_without_checksums(store):
    file = chunk_files(store, "indices")[0]
    content = bytearray(file.read_bytes())
    content[0:12] = b"\xff" * 12
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"X/indices: chunk \d+ (does not decode|holds)"):
        read_all(store)


def test_column_numbers_out_of_range(tmp_path):
    counts = COUNTS.copy()
    write_v3(tmp_path / "store.zarr", counts, chunk=300)
    zarr.open_array(tmp_path / "store.zarr" / "X" / "indices", mode="r+")[700] = 60
    with pytest.raises(BadInput, match=r"X/indices: chunks \d+ to \d+ name columns beyond 60"):
        read_all(tmp_path / "store.zarr")


@pytest.mark.parametrize("store", ["ours"], indirect=True)
def test_a_lost_chunk_of_a_column(store):
    for column in ("cell_type/codes", "size_factor"):
        file = next(f for f in (store / "obs" / column).rglob("*") if f.is_file() and f.name != "zarr.json")
        content = file.read_bytes()
        file.unlink()
        atlas = open_atlas(store)
        with pytest.raises(BadInput, match=rf"obs/{column}: chunk 0 is missing"):
            atlas.codes("cell_type") if "codes" in column else atlas.size_factor
        file.write_bytes(content[:-40] + b"x" * 40)
        atlas = open_atlas(store)
        with pytest.raises(BadInput, match=rf"obs/{column.split('/')[0]}"):
            atlas.codes("cell_type") if "codes" in column else atlas.size_factor
        file.write_bytes(content)


@pytest.mark.parametrize("store", KINDS, indirect=True)
@pytest.mark.parametrize("part", ["X", "X/data", "X/indptr", "obs", "var", "obs/age"])
def test_a_store_written_half(store, part):
    if part in ("X", "obs", "var"):  # as it looks before the writer came to it
        shutil.rmtree(store / part)
        for name in ("zarr.json", ".zmetadata"):
            forget_consolidated(store / name)
    else:
        shutil.rmtree(store / part)
        for name in ("zarr.json", ".zmetadata"):
            forget_consolidated(store / name)
    with pytest.raises(BadInput, match=r"store.zarr: .*(still being written|not an AnnData store)"):
        read_all(store)


def forget_consolidated(file):
    """Remove the copy of all metadata that anndata writes at its end."""
    import json

    if file.name == ".zmetadata":
        file.unlink(missing_ok=True)
    elif file.exists():
        metadata = json.loads(file.read_text())
        metadata.pop("consolidated_metadata", None)
        file.write_text(json.dumps(metadata))


def test_arrays_that_do_not_fit_each_other(tmp_path):
    write_v3(tmp_path / "store.zarr", COUNTS)
    zarr.open_array(tmp_path / "store.zarr" / "X" / "data", mode="r+").resize((COUNTS.nnz + 5,))
    zarr.consolidate_metadata(tmp_path / "store.zarr")
    with pytest.raises(BadInput, match=f"indptr ends at {COUNTS.nnz}, data at {COUNTS.nnz + 5}"):
        read_all(tmp_path / "store.zarr")


@pytest.mark.parametrize("store", ["v3", "ours"], indirect=True)
def test_a_store_that_is_written_to_while_it_is_read(store):
    atlas = open_atlas(store)
    time.sleep(0.02)  # more than a tick of the clock of files
    for file in chunk_files(store, "data"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"after (the store|it) was opened|is damaged"):
        atlas.read(np.arange(10))


@pytest.mark.parametrize("store", ["ours"], indirect=True)
def test_a_store_replaced_by_another_is_read_on_in_its_old_state(store, tmp_path):
    atlas = open_atlas(store)
    before = atlas.read(np.arange(atlas.n_cells)).to_scipy().toarray()
    store.rename(tmp_path / "old.zarr")
    write_atlas(store, random_counts(seed=9))
    np.testing.assert_array_equal(atlas.read(np.arange(atlas.n_cells)).to_scipy().toarray(), before)


@pytest.mark.parametrize("store", ["ours"], indirect=True)
@pytest.mark.parametrize("buffer_bytes", [1 << 12, 1 << 30])
def test_a_stream_raises_and_can_be_tried_again(store, buffer_bytes):
    file = chunk_files(store, "indices")[0]
    content = file.read_bytes()
    file.write_bytes(b"\x00" + content[1:])
    with pytest.raises(BadInput, match="X/indices: chunk 0 has a wrong checksum"):
        list(CellStream(open_atlas(store), 50, buffer_bytes=buffer_bytes))
    file.write_bytes(content)
    assert sum(len(batch) for batch in CellStream(open_atlas(store), 50)) == open_atlas(store).n_cells


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_damaged_h5ad(tmp_path, keep):
    path = tmp_path / "a.h5ad"
    anndata.AnnData(COUNTS).write_h5ad(path, compression="gzip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BadInput, match=r"a.h5ad"):
        read_all(path)


def test_a_damaged_chunk_of_an_h5ad(tmp_path):
    import h5py

    path = tmp_path / "a.h5ad"
    anndata.AnnData(COUNTS).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        info = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[info.byte_offset : info.byte_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a.h5ad: X/data: chunk 0 cannot be read"):
        read_all(path)


@pytest.mark.parametrize("store", ["ours", "v3"], indirect=True)
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_damaged_metadata(store, keep):
    """Of every group and array: either it is not needed, or it is refused in one line."""
    forget_consolidated(store / "zarr.json")
    messages = []
    for file in sorted(store.rglob("zarr.json")):
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])
        try:
            read_all(store)
            atlas = open_atlas(store)
            [atlas.var, *(atlas.obs(column) for column in atlas.obs_columns)]
        except BadInput as error:
            messages.append(str(error))
        file.write_bytes(content)
    assert len(messages) > 10
    assert all("store.zarr" in message and "\n" not in message for message in messages)
