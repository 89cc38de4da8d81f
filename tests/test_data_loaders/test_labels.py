"""What is no label is none in ingest, in atlases and in streams; cells without one are treated as asked."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from ingest_helpers import ingested, refused
from small_data import small_adata

from data_loaders import BadInput, CellStream, ingest, open_atlas
from data_loaders.labels import as_label, parse_missing

GAPS = [3, 7, 11]
MISSING = {  # values of 60 cells that lack the label at GAPS, and their categories
    "float": (lambda: np.where(np.isin(np.arange(60), GAPS), np.nan, np.arange(60) % 3.0), ["0", "1", "2"]),
    "masked int": (lambda: pd.array([None if i in GAPS else i % 3 for i in range(60)], dtype="Int64"), ["0", "1", "2"]),
    "masked bool": (
        lambda: pd.array([None if i in GAPS else i % 2 == 0 for i in range(60)], dtype="boolean"), ["False", "True"],
    ),
    "none": (lambda: [None if i in GAPS else "ab"[i % 2] for i in range(60)], ["a", "b"]),
    "empty": (lambda: ["" if i in GAPS else "ab"[i % 2] for i in range(60)], ["a", "b"]),
    "white": (lambda: [" \t" if i in GAPS else "ab"[i % 2] for i in range(60)], ["a", "b"]),
    "categories": (lambda: pd.Categorical([np.nan if i in GAPS else "ab"[i % 2] for i in range(60)]), ["a", "b"]),
    "empty category": (lambda: pd.Categorical(["" if i in GAPS else "ab"[i % 2] for i in range(60)]), ["a", "b"]),
    "float categories": (
        lambda: pd.Categorical(np.where(np.isin(np.arange(60), GAPS), np.nan, np.arange(60) % 2.0)), ["0", "1"],
    ),
}  # fmt: skip


@pytest.fixture(params=MISSING)
def gaps(request, tmp_path):
    """An h5ad whose column `group` lacks a value in three cells, and its categories."""
    adata = small_adata()
    values, categories = MISSING[request.param]
    adata.obs["group"] = values()
    adata.write_h5ad(tmp_path / "gaps.h5ad")
    return tmp_path / "gaps.h5ad", categories


def test_ingest_and_streams_agree_on_what_is_missing(tmp_path, gaps):
    source, categories = gaps
    assert "obs column 'group' has no value in 3 of 60 cells, the first is row 3 ('cell3')" in refused(
        tmp_path, source, labels=["group"]
    )
    out, card = ingested(tmp_path, source, labels=["group"], unlabelled="drop", keep_order=True)
    assert list(out.obs_names) == [f"cell{i}" for i in range(60) if i not in GAPS]
    assert list(out.obs["source_row"]) == [i for i in range(60) if i not in GAPS]
    assert card["labels"]["group"]["categories"] == categories
    assert card["dropped"]["unlabelled_cells"] == 3
    assert any("3 of 60 cells have no 'group'; they are left out" in note for note in card["notes"])
    atlas = open_atlas(source)
    assert sorted(atlas.categories("group")) == categories
    assert np.flatnonzero(atlas.codes("group") < 0).tolist() == GAPS
    with pytest.raises(BadInput, match="'group' has no value for 3 selected cells; `unlabelled='drop'` leaves them"):
        CellStream(atlas, 16, labels=["group"])
    dropped = CellStream(atlas, 16, labels=["group"], unlabelled="drop")
    assert dropped.n_selected == 57
    assert not set(GAPS) & {row for batch in dropped for row in batch.rows.tolist()}
    kept = {row: code for batch in CellStream(atlas, 16, labels=["group"], unlabelled="keep")
            for row, code in zip(batch.rows.tolist(), batch.labels["group"].tolist(), strict=True)}  # fmt: skip
    assert sorted(row for row, code in kept.items() if code == -1) == GAPS


def test_kept_cells_have_the_code_minus_one(tmp_path, gaps):
    source, categories = gaps
    out, card = ingested(tmp_path, source, labels=["cell_type", "group"], unlabelled="keep", keep_order=True)
    assert out.n_obs == 60
    assert np.flatnonzero(out.obs["group"].isna()).tolist() == GAPS
    assert card["labels"]["group"]["unlabelled"] == 3
    assert "unlabelled" not in card["labels"]["cell_type"]
    assert sum(card["labels"]["group"]["counts"]) == 57
    assert sum(law["n_cells"] for law in card["size_factor"]["by"]["group"].values()) <= 57
    again = open_atlas(tmp_path / "out.zarr")
    assert again.categories("group") == categories
    assert np.flatnonzero(again.codes("group") < 0).tolist() == GAPS
    assert "unlabelled" in card["options"]


def test_unlabelled_cells_are_a_stratum_of_their_own(tmp_path):
    adata = small_adata(400)
    adata.obs["cell_type"] = np.where(np.arange(400) < 200, None, "x")
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, _ = ingested(tmp_path, tmp_path / "a.h5ad", labels=["cell_type"], unlabelled="keep")
    assert out.obs.loc[out.obs["cell_type"].isna(), "split"].value_counts()["test"] == 40


def test_texts_are_missing_on_request_and_noted_otherwise(tmp_path):
    adata = small_adata()
    adata.obs["cell_type"] = np.where(np.arange(60) < 14, "nan", np.where(np.arange(60) < 20, "Unknown", "T"))
    adata.write_h5ad(tmp_path / "a.h5ad")
    card = ingest(tmp_path / "a.h5ad", tmp_path / "as_is.zarr", labels=["cell_type"], min_cells=0)
    assert card["labels"]["cell_type"]["categories"] == ["T", "Unknown", "nan"]
    assert any(note.startswith("14 cells have the cell_type 'nan'") for note in card["notes"])
    assert any(note.startswith("6 cells have the cell_type 'Unknown'") for note in card["notes"])
    options = {"labels": ["cell_type"], "missing_values": "NaN,unknown", "unlabelled": "drop"}
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", **options)
    assert out.n_obs == 40
    assert card["options"]["missing_values"] == ["NaN", "unknown"]
    assert open_atlas(tmp_path / "a.h5ad", missing_values=["nan"]).categories("cell_type") == ["T", "Unknown"]
    (tmp_path / "other").mkdir()
    options = {"labels": ["cell_type"], "missing_values": ("nan", "unknown", "t")}
    message = refused(tmp_path / "other", tmp_path / "a.h5ad", **options)
    assert "has no value in 60 of 60" in message


def test_several_columns_and_their_numbers(tmp_path):
    adata = small_adata()
    adata.obs.loc[adata.obs_names[:4], "cell_type"] = np.nan
    adata.obs.loc[adata.obs_names[2:10], "donor"] = ""
    adata.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad", labels=["cell_type", "donor"])
    assert "'cell_type' has no value in 4 of 60 cells" in message
    assert "'donor' has no value in 8 of 60 cells" in message
    message = refused(tmp_path, tmp_path / "a.h5ad", labels=["cell_type"], holdout=("donor", 0.2), unlabelled="keep")
    assert "`holdout` names 'donor', which 8 of 60 cells have no value in" in message
    assert "did you mean 'keep'?" in refused(tmp_path, tmp_path / "a.h5ad", labels=["donor"], unlabelled="kept")
    _, card = ingested(tmp_path, tmp_path / "a.h5ad", labels=["cell_type", "donor"], unlabelled="drop")
    assert card["dropped"]["unlabelled_cells"] == 10


def test_stores_of_different_types_are_joined(tmp_path):
    for name, values in (("a", np.arange(60) % 3), ("b", np.where(np.arange(60) < 5, np.nan, 1.0))):
        adata = small_adata()
        adata.obs["group"] = values
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    atlas = open_atlas([tmp_path / "a.h5ad", tmp_path / "b.h5ad"])
    assert atlas.categories("group") == ["0", "1", "2"]
    assert (atlas.codes("group") < 0).sum() == 5


def test_of_an_h5ad_of_old(tmp_path):
    adata = small_adata()
    adata.obs["cell_type"] = pd.Categorical(["T", ""] * 30)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").obs["cell_type"].nunique() == 2
    assert open_atlas(tmp_path / "a.h5ad").categories("cell_type") == ["T"]


def test_text_of_values():
    assert list(as_label(np.array([2.0, np.nan, 10.0]), sort_numbers=True).categories) == ["2", "10"]
    assert list(as_label(np.array([0.5, 1.0])).categories) == ["0.5", "1.0"]
    assert list(as_label(pd.Series([1, "1", 2.0, None], dtype=object)).categories) == ["1", "2"]
    assert parse_missing(" nan, ,NA") == ("nan", "NA")
