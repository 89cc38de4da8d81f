"""Zarr stores with something in them that the installed zarr does not know are read where it is not needed."""

import json

import anndata as ad
import numpy as np
import pytest
import zarr
from ingest_helpers import ingested, refused
from small_data import same_counts, small_adata

from data_loaders import CellStream, open_atlas
from data_loaders.zarr_groups import names

STRUCT = {"name": "struct", "configuration": {"fields": [{"name": "x", "data_type": {"name": "int8"}}]}}


def make_unknown(store, place):
    """Give an array a data type that no zarr knows yet, in its own metadata and in the consolidated ones."""
    for file in (store / place / "zarr.json", store / "zarr.json"):
        metadata = json.loads(file.read_text())
        if "data_type" in metadata:
            metadata["data_type"] = STRUCT
        consolidated = metadata.get("consolidated_metadata")
        for key, value in ((consolidated or {}).get("metadata") or {}).items():
            if key == place:
                value["data_type"] = STRUCT
        file.write_text(json.dumps(metadata))


@pytest.mark.parametrize("is_consolidated", [True, False])
@pytest.mark.parametrize("place", ["uns/strange", "uns/deep/strange", "obsm/strange", "obs/age"])
def test_what_is_not_needed_may_be_unknown(tmp_path, place, is_consolidated):
    adata = small_adata()
    adata.uns = {"strange": np.arange(3), "deep": {"strange": np.arange(3)}}
    adata.obsm["strange"] = np.zeros((60, 2))
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        adata.write_zarr(tmp_path / "a.zarr")
    if is_consolidated:
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    make_unknown(tmp_path / "a.zarr", place)
    out, _ = ingested(tmp_path, tmp_path / "a.zarr", labels=["cell_type"])
    assert same_counts(out, adata)
    assert ("age" in out.obs) == (place != "obs/age")
    atlas = open_atlas(tmp_path / "a.zarr")
    assert ("age" in atlas.obs_columns) == (place != "obs/age")
    shown = sum(batch.counts["rna"].to_scipy().sum() for batch in CellStream(atlas, 16, labels=["cell_type"]))
    assert shown == adata.X.sum()


def test_what_is_needed_is_refused_by_its_kind(tmp_path):
    adata = small_adata()
    adata.X = adata.X.toarray()
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        adata.write_zarr(tmp_path / "a.zarr")
    make_unknown(tmp_path / "a.zarr", "X")
    message = refused(tmp_path, tmp_path / "a.zarr")
    assert "the installed zarr does not know its data type or codec; a newer zarr may" in message
    assert "damaged" not in message


def test_names_are_listed_without_opening(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    root.create_array("one", shape=3, dtype="i4")
    root.create_group("two")
    assert names(zarr.open_group(tmp_path / "a.zarr", mode="r")) == ["one", "two"]
    assert names(None) == []
    assert names({"a": 1}) == ["a"]
