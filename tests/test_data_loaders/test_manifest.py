"""Every file of a store that we write is known by size and checksum; another one is refused."""

import itertools
import json
import os
import shutil
import time
from contextlib import suppress
from itertools import pairwise

import anndata
import numpy as np
import pytest
import zarr
from store_data import without_manifest

from data_loaders import BadInput, CellStream, LatentWriter, export, ingest, open_atlas, simulate
from data_loaders.card import read_card
from data_loaders.manifest import ELEMENT


def make(path, seed=0):
    simulate(path, cells=90, genes=20, types=3, donors=2, density=0.4, seed=seed)
    return path


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "a.zarr")


@pytest.fixture
def latents(store, tmp_path):
    atlas = open_atlas(store)
    with LatentWriter(tmp_path / "latents.zarr", atlas, 4) as writer:
        writer.append(np.random.default_rng(0).normal(size=(90, 4)), np.arange(90))
    return tmp_path / "latents.zarr"


def everything(path):
    """All that a store says, as it would reach a training."""
    atlas = open_atlas(path)
    columns = {name: np.asarray(atlas.obs(name)).tolist() for name in atlas.obs_columns}
    tables = {
        name: atlas.features(name).to_json() if name != "latent" else atlas.var.to_json() for name in atlas.modalities
    }
    counts = atlas.read(np.arange(atlas.n_cells))
    values = counts.to_scipy().toarray() if hasattr(counts, "to_scipy") else counts.values
    return columns, tables, values.tolist(), json.dumps(atlas.card), list(atlas.obs_names()), list(atlas.labels)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["store", "latents"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "zero"])
def test_a_damaged_file_is_refused_or_does_not_matter(kind, damage, request):
    path = request.getfixturevalue(kind)
    before, silent, seen = everything(path), [], 0
    for file in files(path):
        content = file.read_bytes()
        if damage == "delete":
            file.unlink()
        else:
            middle = len(content) // 2
            changed = {
                "flip": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
                "cut": content[:middle],
                "zero": content[:middle] + bytes(len(content) - middle),
            }[damage]
            file.write_bytes(changed)
        try:
            if everything(path) != before:
                silent.append(str(file))
        except BadInput:
            seen += 1
        file.write_bytes(content)
    assert not silent
    assert seen > len(files(path)) / 2
    assert everything(path) == before


def test_two_files_that_change_places_are_seen(store):
    before = everything(store)
    chunks = [path for path in files(store) if path.name != "zarr.json"]
    for one, other in pairwise(chunks):
        kept = one.read_bytes(), other.read_bytes()
        one.write_bytes(kept[1])
        other.write_bytes(kept[0])
        with suppress(BadInput):
            assert everything(store) == before, (one, other)
        one.write_bytes(kept[0])
        other.write_bytes(kept[1])


def test_shards_of_equal_form_that_change_places_are_seen(tmp_path, monkeypatch, store):
    from data_loaders.writing import latents as writing

    monkeypatch.setattr(writing, "CHUNK_ROWS", 15)
    monkeypatch.setattr(writing, "SHARD_ROWS", 30)
    with LatentWriter(tmp_path / "l.zarr", open_atlas(store), 4) as writer:
        writer.append(np.random.default_rng(0).normal(size=(90, 4)), np.arange(90))
    shards = files(tmp_path / "l.zarr" / "X" / "c")
    assert len(shards) == 3
    shards[0].rename(tmp_path / "kept")
    shards[1].rename(shards[0])
    (tmp_path / "kept").rename(shards[1])
    with pytest.raises(BadInput, match="the file X/c/0/0 has a wrong checksum"):
        open_atlas(tmp_path / "l.zarr").read(np.arange(90))


@pytest.mark.parametrize("first", ["read", "codes", "var", "obs_names"])
def test_a_store_replaced_between_opening_and_the_first_look_is_refused(tmp_path, store, first):
    other = make(tmp_path / "other.zarr", seed=1)
    atlas = open_atlas(store)
    store.rename(tmp_path / "old.zarr")
    other.rename(store)
    looks = {
        "read": lambda: atlas.read(np.arange(90)),
        "codes": lambda: atlas.codes("donor"),
        "var": lambda: atlas.var["mean"],
        "obs_names": lambda: atlas.obs("size_factor"),
    }
    with pytest.raises(BadInput, match=r"a\.zarr: .*replaced after it was opened"):
        looks[first]()


def test_a_foreign_store_replaced_between_opening_and_the_first_look_is_refused(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        counts = np.random.default_rng(seed).poisson(0.5, (50, 20)).astype(np.float32)
        anndata.AnnData(anndata.AnnData(counts).X).write_zarr(tmp_path / f"{name}.zarr")
    atlas = open_atlas(tmp_path / "a.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "old.zarr")
    (tmp_path / "b.zarr").rename(tmp_path / "a.zarr")
    with pytest.raises(BadInput, match="written to after the store was opened"):
        atlas.read(np.arange(50))


def test_times_that_are_still_to_come_say_nothing(tmp_path, store):
    before = everything(store)
    anndata.AnnData(np.eye(5, dtype=np.float32)).write_zarr(tmp_path / "foreign.zarr")
    later = time.time() + 1e6
    for path in (store, tmp_path / "foreign.zarr"):
        for file in files(path):
            os.utime(file, (later, later))
    assert everything(store) == before
    assert open_atlas(tmp_path / "foreign.zarr").read(np.arange(5)).values.sum() == 5


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_the_card_of_a_store_that_anndata_wrote_anew_is_not_believed(tmp_path, store, suffix, caplog):
    adata = anndata.read_zarr(store)
    adata.X = adata.X * 2
    path = tmp_path / f"b.{suffix}"
    adata.write_zarr(path) if suffix == "zarr" else adata.write_h5ad(path)
    atlas = open_atlas(path)
    assert atlas.card is None
    assert atlas.contents is None
    assert atlas.fingerprint != open_atlas(store).fingerprint
    assert "written anew by another program" in caplog.text
    if suffix == "zarr":
        with pytest.raises(BadInput, match="written anew by another program"):
            read_card(path)


def test_a_stream_is_not_taken_up_on_other_counts(tmp_path, store):
    stream = CellStream(open_atlas(store), 30)
    next(iter(stream))
    adata = anndata.read_zarr(store)
    adata.X = adata.X * 2
    adata.write_zarr(tmp_path / "b.zarr")
    with pytest.raises(BadInput, match=r"\S"):
        CellStream(open_atlas(tmp_path / "b.zarr"), 30).load_state_dict(stream.state_dict())


def test_metadata_consolidated_later_are_no_damage(store):
    before = everything(store)
    zarr.consolidate_metadata(store)
    assert everything(store) == before


def test_a_store_without_manifest_is_read_unchecked(store):
    """As those written before there were any."""
    before = everything(store)
    without_manifest(store)
    assert open_atlas(store).contents is None
    assert everything(store) == before


def test_equal_data_have_equal_digests_and_others_do_not(tmp_path, store):
    contents = open_atlas(store).contents
    assert open_atlas(make(tmp_path / "same.zarr")).contents == contents
    assert open_atlas(make(tmp_path / "other.zarr", seed=1)).contents != contents


def test_check_files_looks_at_all_of_them(store):
    open_atlas(store).check_files()
    file = next(
        path
        for path in files(store / "varm" if any(files(store / "varm")) else store / "var")
        if path.name != "zarr.json"
    )
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="the file var"):
        open_atlas(store).check_files()


def test_an_exported_file_has_the_card_and_no_manifest(tmp_path, store):
    export(store, tmp_path / "a.h5ad")
    assert open_atlas(tmp_path / "a.h5ad").card == open_atlas(store).card
    assert ELEMENT not in anndata.read_h5ad(tmp_path / "a.h5ad").uns


def test_ingest_of_a_damaged_atlas_is_refused(tmp_path, store):
    file = store / "obs" / "donor" / "categories" / "c" / "0"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"donor", b"Donor") if b"donor" in content else content[:-9] + b"x" * 9)
    with pytest.raises(BadInput, match="obs"):
        ingest([store], tmp_path / "b.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_foreign_store_that_is_replaced_is_not_mixed_with_the_new_one(tmp_path, store, zarr_format):
    first, second = (anndata.read_zarr(path) for path in (store, make(tmp_path / "other.zarr", seed=1)))
    for adata in (first, second):
        adata.uns = {}
    foreign = tmp_path / "foreign.zarr"
    with anndata.settings.override(zarr_write_format=zarr_format):
        first.write_zarr(foreign)
        atlas = open_atlas(foreign)
        atlas.read(np.arange(atlas.n_cells))  # every file of counts is open from here on
        second.write_zarr(foreign)
    for read in (lambda: atlas.obs("donor"), lambda: atlas.var, atlas.obs_names):
        with pytest.raises(BadInput, match="written to after the store was opened"):
            read()


def test_a_column_of_a_foreign_store_that_is_written_to_is_refused(tmp_path, store):
    adata = anndata.read_zarr(store)
    adata.uns = {}
    adata.write_zarr(tmp_path / "foreign.zarr")
    atlas = open_atlas(tmp_path / "foreign.zarr")
    file = next(path for path in files(tmp_path / "foreign.zarr" / "obs" / "donor" / "codes") if path.name == "0")
    file.write_bytes(file.read_bytes())
    os.utime(file)
    with pytest.raises(BadInput, match=r"foreign.zarr/obs/donor/codes/0: written to after the store was opened"):
        atlas.obs("donor")


@pytest.mark.parametrize("ours", [True, False])
def test_a_file_that_is_opened_again_must_be_the_same(tmp_path, store, ours, monkeypatch):
    from data_loaders.reading import byte_ranges

    monkeypatch.setattr(byte_ranges, "OPEN_FILES", 1)
    if not ours:
        without_manifest(store)
    atlas = open_atlas(store)
    atlas.read(np.arange(10))
    for key in ("data", "indices"):
        file = store / "X" / key / "c" / "0"
        os.replace(shutil.copy2(file, tmp_path / "copy"), file)  # the same bytes and time, another file
    with pytest.raises(BadInput, match="written to after the store was opened"):
        atlas.read(np.arange(10))
    assert len(open_atlas(store).read(np.arange(10))) == 10


@pytest.mark.parametrize("ours", [True, False])
def test_times_to_come_are_no_reason(store, ours):
    if not ours:
        without_manifest(store)
    before, later = everything(store), time.time() + 3600
    for file in files(store):
        os.utime(file, (later, later))
    assert everything(store) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize(
    ("key", "ours"),
    [
        *itertools.product(("X/data/c/0", "X/indptr/zarr.json", "obs/donor/codes/c/0"), (True, False)),
        ("uns/atlas_files/c", True),
    ],
)
def test_pipes_are_not_waited_for(tmp_path, store, key, ours):
    if not ours:
        without_manifest(store)
    (store / key).unlink()
    os.mkfifo(store / key)
    with pytest.raises(BadInput, match=r"a pipe, a socket or a device|is missing"):
        everything(store)
    with pytest.raises(BadInput, match=r"a pipe, a socket or a device|is missing|has lost chunks"):
        ingest([store], tmp_path / "b.zarr")
