"""The id of a store names it: drawn once for an atlas, that of the plan for what a plan makes."""

import json
import shutil

import anndata as ad
import pytest
import zarr
from small_data import small_adata

from data_loaders import BadInput, ingest, open_atlas, simulate
from data_loaders.card import read_card
from data_loaders.identity import digest_without_id, id_of, new_id, which


def made(folder, name, **options):
    source = folder / "source.h5ad"
    if not source.exists():
        small_adata().write_h5ad(source)
    ingest(source, folder / name, labels=["cell_type"], **options)
    return folder / name


def test_two_ingests_differ_in_nothing_but_their_ids(tmp_path):
    first, second = made(tmp_path, "a.zarr"), made(tmp_path, "b.zarr")
    assert read_card(first)["id"] == open_atlas(first).identity
    assert read_card(first)["id"] != read_card(second)["id"]
    assert open_atlas(first).contents == open_atlas(second).contents
    assert digest_without_id(first) == digest_without_id(second)
    assert digest_without_id(first) != digest_without_id(made(tmp_path, "c.zarr", seed=1))


def test_a_copy_is_the_same_store(tmp_path):
    first = made(tmp_path, "a.zarr")
    shutil.copytree(first, tmp_path / "copy.zarr")
    assert open_atlas(tmp_path / "copy.zarr").identity == open_atlas(first).identity


def test_what_arguments_make_has_their_id(tmp_path):
    for name, seed in (("a.zarr", 1), ("b.zarr", 1), ("c.zarr", 2)):
        simulate(tmp_path / name, cells=60, genes=20, types=2, donors=2, density=0.2, seed=seed)
    ids = [open_atlas(tmp_path / f"{name}.zarr").identity for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(("seed", "told"), [(0, "another store"), (1, "another store"), (None, "the same store")])
def test_message_says_which_store_is_there_now(tmp_path, seed, told):
    path = made(tmp_path, "a.zarr")
    atlas = open_atlas(path)
    if seed is None:  # the same store with other bytes in a column
        file = next(path.glob("obs/cell_type/categories/c/*"))
        file.write_bytes(file.read_bytes()[:-1])
    else:
        other = made(tmp_path, "b.zarr", seed=seed)
        shutil.rmtree(path)
        other.rename(path)
    with pytest.raises(BadInput, match=f"it is {told}"):
        atlas.check_files()


def test_card_of_another_store(tmp_path):
    path = made(tmp_path, "a.zarr")
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    card = json.loads(str(root["uns/atlas_card"][()]))
    for text in ("x", new_id().upper()):
        root["uns/atlas_card"][()] = json.dumps(card | {"id": text})
        with pytest.raises(BadInput):
            read_card(path)


def test_stores_without_id_are_read(tmp_path):
    path = made(tmp_path, "a.zarr")
    ad.read_zarr(path).write_zarr(tmp_path / "foreign.zarr")
    assert open_atlas(tmp_path / "foreign.zarr").identity is None


def test_words():
    assert id_of("a") == id_of("a") != id_of("b")
    assert len(id_of("a")) == len(new_id()) == 32
    assert which(None, "a") == which("a", None) == ""
