"""Tables of labels in the forms that people have."""

import bz2
import gzip

import numpy as np
import pandas as pd
import pytest
from ingest_helpers import ingested, refused
from small_data import small_adata

from data_loaders import BadInput
from data_loaders.tables import read_table

ROWS = [("AAC-1", "T cell, CD4+"), ("AAG-1", "B cell"), ("AAT-1", "")]


def text(separator, header="cell{}kind\n", quote='"'):
    lines = [f"{name}{separator}{quote}{kind}{quote}" for name, kind in ROWS]
    return header.format(separator) + "\n".join(lines) + "\n"


FORMS = {
    "table.csv": text(",").encode(),
    "table.tsv": text("\t").encode(),
    "GSE1_metadata.txt": text("\t", quote="").encode(),
    "semicolons.csv": text(";").encode(),
    "bars.txt": text("|").encode(),
    "r.txt": text(" ", "kind\n").encode(),
    "r_tabs.txt": text("\t", "kind\n").encode(),
    "mark.csv": text(",").encode("utf-8-sig"),
    "windows.csv": text(",").replace("\n", "\r\n").encode(),
    "excel.txt": text("\t").encode("utf-16"),
    "packed.csv.gz": gzip.compress(text(",").encode()),
    "packed_under_another_name": gzip.compress(text("\t").encode()),
    "packed.bz2": bz2.compress(text(";").encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_text_in_many_forms(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    table = read_table(tmp_path / name, names_first=True)
    assert list(table.index) == [name for name, _ in ROWS]
    assert table["kind"].tolist() == [kind for _, kind in ROWS]


@pytest.mark.parametrize("index", [True, False])
def test_parquet(tmp_path, index):
    table = pd.DataFrame({"cell": ["a", "b"], "kind": ["x", None], "size": [1, 2]})
    (table.set_index("cell") if index else table).to_parquet(tmp_path / "t.pq")
    found = read_table(tmp_path / "t.pq", names_first=True)
    assert list(found.index) == ["a", "b"]
    assert found["size"].tolist() == [1, 2]


def test_labels_without_names(tmp_path):
    (tmp_path / "a.csv").write_text("cell_type\nT cell\nCD4+, naive\n")
    assert read_table(tmp_path / "a.csv", names_first=False)["cell_type"].tolist()[0] == "T cell"
    (tmp_path / "b.txt").write_text("cell_type;n\nT cell;3\n")
    assert read_table(tmp_path / "b.txt", names_first=False).to_dict("list") == {"cell_type": ["T cell"], "n": ["3"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04 and more", "an Excel workbook or a zip archive; .* save it as CSV"),
        (b"\x80\x81\xff", "cannot be read as a table"),
        (b"PAR1 cut short", "cannot be read as a table"),
        (b"\x1f\x8b cut short", "cannot be read as a table"),
        (b"cells\na\nb\n", "a single column 'cells'"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_table(tmp_path / "t.csv", names_first=True)
    assert "\n" not in str(caught.value)


def test_more_and_fewer_rows_than_cells(tmp_path):
    adata = small_adata()
    labels = adata.obs[["cell_type"]].iloc[5:]
    extra = pd.DataFrame({"cell_type": ["T"] * 7}, index=[f"other{i}" for i in range(7)])
    pd.concat([labels, extra]).to_csv(tmp_path / "labels.txt", sep="\t")
    adata.obs = adata.obs[[]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    options = {"labels": ["cell_type"], "obs_files": tmp_path / "labels.txt"}
    assert "has no value in 5 of 60 cells, the first is row 0" in refused(tmp_path, tmp_path / "a.h5ad", **options)
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", unlabelled="keep", **options)
    assert out.obs["cell_type"].isna().sum() == 5
    assert (out.obs["cell_type"].dropna().astype(str) == labels["cell_type"][out.obs["cell_type"].dropna().index]).all()
    notes = " ".join(card["notes"])
    assert "5 of 60 cells are not in" in notes
    assert "7 rows are of no cell of" in notes
    assert "such as 'other0'; ignored" in notes


def test_one_table_for_several_sources(tmp_path):
    parts = []
    for name in "ab":
        adata = small_adata()
        adata.obs_names = [f"{name}{i}" for i in range(60)]
        parts.append(adata.obs[["cell_type"]].astype(str))
        adata.obs = adata.obs[[]]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    pd.concat(parts).to_parquet(tmp_path / "labels.parquet")
    sources = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    out, card = ingested(tmp_path, sources, labels=["cell_type"], obs_files=tmp_path / "labels.parquet")
    assert (out.obs["cell_type"].astype(str) == pd.concat(parts)["cell_type"][out.obs_names]).all()
    assert not any("ignored" in note for note in card["notes"])
    assert np.all(out.obs["source"].isin(["a", "b"]))
