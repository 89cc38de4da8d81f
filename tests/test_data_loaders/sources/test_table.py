"""Text tables of counts: either way round where names tell, and refused in words where they do not."""

import gzip
import shutil

import pandas as pd
import pytest
from ingest_helpers import ingested, refused
from small_data import same_counts, small_adata

from data_loaders.sources.orientation import genes_are_in_rows, look_like_cells, look_like_genes

pytestmark = pytest.mark.usefixtures("small_pieces")


@pytest.fixture
def adata():
    adata = small_adata()
    adata.var_names = [f"ENSG{i:011d}" for i in range(25)]
    return adata


@pytest.mark.parametrize("separator", [",", "\t", ";", " "])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("corner", [True, False])
def test_every_way_to_write_a_table(tmp_path, adata, separator, is_turned, corner):
    table = adata.to_df().astype(int)
    text = (table.T if is_turned else table).to_csv(sep=separator, quoting=2 if separator == ";" else 0)
    if not corner:  # as R writes it
        head, _, rest = text.partition("\n")
        text = head.partition(separator)[2] + "\n" + rest
    ending = {",": ".csv", "\t": ".tsv.gz"}.get(separator, ".txt")
    content = ("# made by a test\n" + text).replace("\n", "\r\n" if separator == " " else "\n").encode()
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    out, card = ingested(tmp_path, path)
    assert same_counts(out, adata)
    assert any("genes are in rows; the table was turned round" in note for note in card["notes"]) == is_turned


def test_names_that_do_not_tell_are_refused(tmp_path, adata):
    table = adata.to_df().astype(int)
    table.index, table.columns = [f"a{i}" for i in range(60)], [f"b{i}" for i in range(25)]
    table.to_csv(tmp_path / "a.csv")
    message = refused(tmp_path, tmp_path / "a.csv")
    assert "rows such as 'a0', 'a1', columns such as 'b0', 'b1': the names do not tell which are the genes" in message
    for axis, shape in (("rows", (25, 60)), ("columns", (60, 25))):
        out, _ = ingested(tmp_path, tmp_path / "a.csv", genes_in=axis, drop_empty=True)
        assert out.shape == shape
        shutil.rmtree(tmp_path / "out.zarr")
    assert "`genes_in='row'`: did you mean 'rows'?" in refused(tmp_path, tmp_path / "a.csv", genes_in="row")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "`genes_in` chooses within a table of counts" in refused(tmp_path, tmp_path / "a.h5ad", genes_in="rows")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("cell3,", "cell3,NA,", 1).replace(",0\ncell4", "\ncell4"), "'NA' in column 'ENSG"),
        (lambda text: text[: text.index("cell9")] + "cell9,1,2", "row 'cell9' has 2 numbers, the header 25 names"),
        (lambda text: text[: text.index("\n") + 1], "no row of numbers in it"),
        (lambda text: "", "no row of numbers in it"),
        (lambda text: text.replace(",", "|"), "expected a table of counts with the names of rows in the first column"),
    ],
)
def test_what_is_no_table_of_counts(tmp_path, adata, change, words):
    counts = adata.to_df().astype(int)
    counts.iloc[3, -1] = 0
    (tmp_path / "a.csv").write_text(change(counts.to_csv()))
    assert words in refused(tmp_path, tmp_path / "a.csv")


def test_a_table_with_a_column_of_text(tmp_path, adata):
    table = adata.to_df().astype(int).T
    table.insert(0, "symbol", "A1BG")
    table.to_csv(tmp_path / "a.csv")
    message = refused(tmp_path, tmp_path / "a.csv")
    assert "'A1BG' in column 'symbol'; expected a number" in message
    assert "damaged" not in message


def test_fractions_name_cell_and_gene(tmp_path, adata):
    table = adata.to_df().T
    table.iloc[4, 7] = 0.5
    table.to_csv(tmp_path / "a.csv")
    message = refused(tmp_path, tmp_path / "a.csv")
    assert "the first in cell 'cell7', gene 'ENSG00000000004': 0.5" in message


def test_an_anndata_of_genes_x_cells_is_refused(tmp_path, adata):
    adata.T.write_h5ad(tmp_path / "a.h5ad")
    message = refused(tmp_path, tmp_path / "a.h5ad")
    assert "obs has the names of genes, such as 'ENSG00000000000', and var those of cells, such as 'cell0'" in message
    assert "adata.T.write_h5ad" in message


def test_what_names_look_like():
    symbols = ["ACTB", "GAPDH", "MALAT1", "RPL13", "MT-CO1", "A1BG", "A2M", "NAT1"]
    assert look_like_genes(symbols)
    assert look_like_genes(pd.Index([name.title() for name in symbols]))
    assert look_like_genes(["ENSMUSG00000051951.5", "ENSMUSG00000102851.1"])
    assert look_like_genes(["GRCh38_ENSG00000243485", "FBgn0031208", "YAL001C", "AT1G01010"])
    assert not look_like_genes(["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC-1"])
    assert not look_like_genes(["chr1:100-200", "chr1:300-400"])
    assert look_like_cells(["GSM1_AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC"])
    assert not look_like_cells(symbols)
    assert genes_are_in_rows(symbols, ["s1", "s2"]) is True
    assert genes_are_in_rows(["s1", "s2"], symbols) is False
    assert genes_are_in_rows(["a", "b"], ["AAACCTGAGAAACCAT-1"] * 3) is True
    assert genes_are_in_rows(["a", "b"], ["c", "d"]) is None
    assert genes_are_in_rows(symbols, symbols) is None
