"""Parquet with one row a cell, as Tahoe-100M and X-Atlas/Orion publish it, becomes the atlas of its counts."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingest_helpers import ingested, refused
from scipy.sparse import csr_matrix
from small_data import same_counts, small_adata

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest, open_atlas
from data_loaders.sources import parquet

pytestmark = pytest.mark.usefixtures("small_pieces")
FIRST = 3  # token of the first gene


@pytest.fixture
def adata():
    adata = small_adata()
    adata.X = csr_matrix(adata.X.toarray() * (np.arange(60) != 7)[:, None])  # a cell with empty lists
    adata.var_names = [f"ENSG{i:011d}" for i in range(25)]
    return adata


def lists_of(adata, *, marker):
    """Tokens and values of each cell, a marker in front of each pair of lists."""
    front = ([1], [-2.0]) if marker else ([], [])
    rows = [adata.X[i] for i in range(adata.n_obs)]
    return [front[0] + (row.indices + FIRST).tolist() for row in rows], [front[1] + row.data.tolist() for row in rows]


def gene_table(adata, token="token_id", symbol="gene_symbol"):
    table = pd.DataFrame({symbol: adata.var["symbol"], "ensembl_id": adata.var_names, token: np.arange(25) + FIRST})
    return table.sample(frac=1, random_state=0)  # not in the order of the tokens


def tahoe(folder, adata, parts=3):
    """The layout of tahoebio/Tahoe-100M: floats behind a marker."""
    tokens, values = lists_of(adata, marker=True)
    table = pa.table(
        {
            "genes": pa.array(tokens, pa.list_(pa.int64())),
            "expressions": pa.array(values, pa.list_(pa.float32())),
            "drug": adata.obs["cell_type"].astype(str).to_numpy(),
            "moa-fine": adata.obs["donor"].to_numpy(),
            "pubchem_cid": adata.obs["age"].to_numpy(),
            "BARCODE_SUB_LIB_ID": list(adata.obs_names),
        }
    )
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    edges = np.linspace(0, adata.n_obs, parts + 1).astype(int)
    for i in range(parts):
        part = table.slice(edges[i], edges[i + 1] - edges[i])
        pq.write_table(part, folder / "data" / f"train-{i:05d}-of-{parts:05d}.parquet", row_group_size=7)
    gene_table(adata).to_parquet(folder / "metadata/gene_metadata.parquet", index=False)
    pd.DataFrame({"drug": ["T"], "moa": ["x"], "pubchem_cid": [1]}).to_parquet(
        folder / "metadata/drug_metadata.parquet"
    )
    return folder


def orion(folder, adata):
    """The layout of Xaira-Therapeutics/X-Atlas-Orion: both lists are whole numbers, no marker."""
    tokens, values = lists_of(adata, marker=False)
    table = pa.table(
        {
            "gene_token_id": pa.array(tokens, pa.large_list(pa.int32())),
            "gene_expression": pa.array([[int(value) for value in row] for row in values], pa.large_list(pa.int64())),
            "cell_barcode": list(adata.obs_names),
            "gene_target": adata.obs["cell_type"].astype(str).to_numpy(),
            "pass_guide_filter": (adata.obs["age"] > 50).astype(int).to_numpy(),
        }
    )
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "HCT116.parquet", row_group_size=11)
    gene_table(adata, "gene_token_id", "gene_name").to_parquet(folder / "gene_metadata.parquet", index=False)
    return folder


@pytest.mark.parametrize("how", ["data", "root", "pattern", "list"])
def test_the_layout_of_tahoe(tmp_path, adata, how):
    folder = tahoe(tmp_path / "tahoe", adata)
    path = {"data": folder / "data", "root": folder, "pattern": f"{folder}/data/train-*.parquet"}.get(how)
    if path is None:
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{file}\n" for file in sorted((folder / "data").iterdir())))
    out, card = ingested(tmp_path, path, labels=["drug"], keep_order=True, drop_empty=True)
    keep = np.arange(60) != 7
    assert list(out.obs_names) == list(adata.obs_names[keep])
    assert list(out.var_names) == list(adata.var_names)
    assert same_counts(out, adata)
    assert list(out.obs["drug"]) == list(adata.obs["cell_type"][keep])
    assert list(out.obs["pubchem_cid"]) == list(adata.obs["age"][keep])
    assert list(out.var["gene_symbol"]) == list(adata.var["symbol"])
    assert len(card["sources"]) == (3 if how == "list" else 1)
    text = "\n".join(card["notes"])
    assert "gene_metadata.parquet" in text
    assert "the first pair of a cell is token 1 with the value -2, which stands for no gene" in text


def test_the_layout_of_orion(tmp_path, adata):
    folder = orion(tmp_path / "orion", adata)
    out, card = ingested(
        tmp_path, folder, labels=["gene_target"], obs_filter="pass_guide_filter == 1", drop_empty=True,
        var_names="gene_name",
    )  # fmt: skip
    passes = adata[(adata.obs["age"] > 50).to_numpy() & (np.arange(60) != 7)]
    assert set(out.obs_names) == set(passes.obs_names)
    assert set(out.var_names) == set(adata.var["symbol"])
    adata.var_names = adata.var["symbol"].to_numpy()
    assert same_counts(out, adata)
    assert not any("the first pair" in note for note in card["notes"])
    assert dict(out.obs["gene_target"]) == {name: adata.obs["cell_type"][name] for name in out.obs_names}


def test_blocks_are_bounded(tmp_path, adata, monkeypatch):
    from data_loaders.sources import matrices
    from data_loaders.sources.open import open_source

    folder = tahoe(tmp_path / "tahoe", adata, parts=1)
    monkeypatch.setattr(matrices, "BLOCK_VALUES", 100)
    sizes = [block.nnz for _, block in open_source(folder / "data").matrix.blocks()]
    assert len(sizes) > 5
    assert max(sizes) < 200


def test_lists_are_told_by_their_contents_where_names_say_nothing(tmp_path, adata):
    tokens, values = lists_of(adata, marker=False)
    whole = [[int(value) for value in row] for row in values]
    pq.write_table(pa.table({"a": whole, "b": tokens, "kind": ["x"] * 60}), tmp_path / "cells.parquet")
    gene_table(adata).to_csv(tmp_path / "genes.csv", index=False)
    out, card = ingested(
        tmp_path, tmp_path / "cells.parquet", genes_table=tmp_path / "genes.csv", keep_order=True, drop_empty=True
    )
    adata.obs_names = [str(i) for i in range(60)]
    assert same_counts(out, adata)
    assert card["sources"][0]["counts"] == "a of b"
    assert any("cells are named by their numbers" in note for note in card["notes"])


def test_several_lists_of_values(tmp_path, adata):
    tokens, values = lists_of(adata, marker=False)
    logged = [np.log1p(row).tolist() for row in values]
    gene_table(adata).to_parquet(tmp_path / "genes.parquet")
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"genes": tokens, "one": values, "two": logged}), path)
    assert "lists of numbers 'one', 'two'; expected one of them, choose by `layer=NAME`" in refused(tmp_path, path)
    assert "did you mean 'one'?" in refused(tmp_path, path, layer="on")
    assert "fractional values" in refused(tmp_path, path, layer="two")
    out, _ = ingested(tmp_path, path, layer="one", drop_empty=True, keep_order=True)
    adata.obs_names = [str(i) for i in range(60)]
    assert same_counts(out, adata)


def written(tmp_path, adata, **columns):
    """A file of the layout of Tahoe with other columns, and its table of genes."""
    tokens, values = lists_of(adata, marker=True)
    gene_table(adata).to_parquet(tmp_path / "genes.parquet")
    table = pa.table({"genes": tokens, "expressions": values} | columns)
    pq.write_table(table, tmp_path / "cells.parquet")
    return tmp_path / "cells.parquet"


def changed(rows, number, change):
    rows = [list(row) for row in rows]
    change(rows[number])
    return rows


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("genes", lambda row: row.__setitem__(2, 99), "has the value {value} for token 99, which is not in the table"),
        ("expressions", lambda row: row.pop(), "cell '4' has {n} entries in 'genes', {m} in 'expressions'"),
        ("expressions", lambda row: row.__setitem__(2, 1.5), "fractional values"),
        ("expressions", lambda row: row.__setitem__(2, -2.0), "negative values (smallest -2)"),
        ("expressions", lambda row: row.__setitem__(2, None), "1 entries of 'expressions' are null; expected numbers"),
    ],
)
def test_entries_that_are_refused(tmp_path, adata, column, change, words):
    lists = dict(zip(("genes", "expressions"), lists_of(adata, marker=True), strict=True))
    n = len(lists["genes"][4])
    words = words.format(value=f"{lists['expressions'][4][2]:g}", n=n, m=n - 1)
    path = written(tmp_path, adata, **{column: changed(lists[column], 4, change)})
    assert words in refused(tmp_path, path)


def test_no_or_several_tables_of_genes(tmp_path, adata):
    path = written(tmp_path, adata)
    (tmp_path / "genes.parquet").rename(tmp_path / "g.bin")
    assert "no table of genes beside it" in refused(tmp_path, path)
    for name in ("a.parquet", "b.parquet"):
        gene_table(adata).to_parquet(tmp_path / name)
    assert "several tables of genes, " in refused(tmp_path, path)
    out, _ = ingested(tmp_path, path, genes_table=tmp_path / "b.parquet", drop_empty=True)
    assert out.n_vars == 25
    twice = gene_table(adata).assign(token_id=FIRST)
    twice.to_parquet(tmp_path / "b.parquet")
    (tmp_path / "out.zarr").rename(tmp_path / "old.zarr")
    assert "token 3 of column 'token_id' has more than one row" in refused(
        tmp_path, path, genes_table=tmp_path / "b.parquet"
    )
    gene_table(adata)[["gene_symbol"]].to_csv(tmp_path / "c.csv", index=False)
    assert "expected one of whole numbers with the tokens" in refused(tmp_path, path, genes_table=tmp_path / "c.csv")


def test_what_is_no_parquet_of_cells(tmp_path, adata):
    adata.obs.to_parquet(tmp_path / "labels.parquet")
    assert "of them 0 with lists of numbers; expected one row a cell" in refused(tmp_path, tmp_path / "labels.parquet")
    (tmp_path / "page.parquet").write_text("<html>not found</html>")
    assert "page.parquet cannot be read" in refused(tmp_path, tmp_path / "page.parquet")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "`genes_table` chooses within Parquet of cells" in refused(tmp_path, tmp_path / "a.h5ad", genes_table="x")


def test_parts_that_do_not_fit(tmp_path, adata):
    folder = tahoe(tmp_path / "tahoe", adata) / "data"
    part = sorted(folder.iterdir())[1]
    part.write_bytes(part.read_bytes()[:-100])
    assert f"{part} cannot be read" in refused(tmp_path, folder)
    table = pa.table({"tokens": [[3]], "expressions": [[1.0]], "drug": ["T"]})
    pq.write_table(table, part)
    assert "no lists of numbers 'genes', which train-00000-of-00003.parquet has" in refused(tmp_path, folder)


def test_columns_that_only_some_parts_have(tmp_path, adata):
    folder = tahoe(tmp_path / "tahoe", adata) / "data"
    part = sorted(folder.iterdir())[1]
    table = pq.read_table(part)
    gaps = pa.array([None] * table.num_rows, pa.null())
    pq.write_table(table.drop_columns(["pubchem_cid"]).set_column(2, "drug", gaps), part)
    out, card = ingested(tmp_path, folder, labels=["drug"], unlabelled="keep", drop_empty=True)
    assert "pubchem_cid" not in out.obs
    assert any("columns not in every part, or nested, were left out: 'pubchem_cid'" in note for note in card["notes"])
    assert card["labels"]["drug"]["counts"]
    assert int(out.obs["drug"].isna().sum()) == 20


def test_columns_of_other_types_or_given_twice(tmp_path, adata):
    folder = tahoe(tmp_path / "tahoe", adata) / "data"
    part = sorted(folder.iterdir())[1]
    table = pq.read_table(part)
    pq.write_table(table.set_column(4, "pubchem_cid", pa.array(["x"] * table.num_rows)), part)
    assert "parts have columns of other types" in refused(tmp_path, folder)
    pq.write_table(table.append_column("drug", table["drug"]), part)
    assert "more than one column 'drug'; expected each once" in refused(tmp_path, folder)


def test_tokens_of_no_gene_may_be_in_the_table(tmp_path, adata):
    folder = tahoe(tmp_path / "tahoe", adata)
    table = tmp_path / "tahoe/metadata/gene_metadata.parquet"
    special = pd.DataFrame({"gene_symbol": ["<pad>", "<cls>"], "ensembl_id": ["<pad>", "<cls>"], "token_id": [0, 1]})
    pd.concat([gene_table(adata), special]).to_parquet(table, index=False)
    out, _ = ingested(tmp_path, folder, drop_empty=True)
    assert same_counts(out, adata)
    assert list(out.var_names) == list(adata.var_names)


def test_label_tables_beside_other_sources_are_no_cells(tmp_path, adata):
    adata.obs.to_parquet(tmp_path / "labels.parquet")
    adata.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "in").mkdir()
    for name in ("labels.parquet", "a.h5ad"):
        (tmp_path / name).rename(tmp_path / "in" / name)
    out, _ = ingested(tmp_path, tmp_path / "in", drop_empty=True)
    assert out.n_obs == 59
    written(tmp_path / "in", adata)
    assert "a folder with 1 .h5ad sources, 1 .parquet sources" in refused(tmp_path, tmp_path / "in")


def test_the_command_and_in_place(tmp_path, adata, capsys):
    folder = tahoe(tmp_path / "tahoe", adata)
    table = tmp_path / "genes.parquet"
    (folder / "metadata/gene_metadata.parquet").rename(table)
    command = ["ingest", str(folder), str(tmp_path / "a.zarr"), "--min-cells", "1", "--drop-empty"]
    assert main(command) == 2
    assert "expected --genes-table PATH" in capsys.readouterr().err
    assert main([*command, "--genes-table", str(table)]) == 0
    assert "60 cells x 25 genes, counts from expressions of genes" in capsys.readouterr().out
    with pytest.raises(BadInput, match="Parquet"):
        open_atlas(sorted((folder / "data").iterdir())[0])


def test_memory_is_that_of_a_row_group(tmp_path, adata):
    """A file is never read whole: the matrix knows its batches before any list is decoded."""
    folder = tahoe(tmp_path / "tahoe", adata, parts=1)
    source = parquet.open(str(folder / "data"), parquet.Options())
    assert source.matrix.n_values == adata.X.nnz + 60
    assert ingest(folder, tmp_path / "out.zarr", min_cells=1, drop_empty=True)["n_cells"] == 59


def test_folders_of_partitions_are_label_columns(adata, tmp_path):
    folder = orion(tmp_path / "flat", adata)
    table = pq.read_table(folder / "HCT116.parquet")
    n = table.num_rows
    table = table.append_column("site", pa.array([f"site {i % 3}" for i in range(n)]).dictionary_encode())
    table = table.append_column("batch", pa.array([i % 2 for i in range(n)]))
    names = table["cell_barcode"].to_pylist()
    site = dict(zip(names, table["site"].to_pylist(), strict=True))
    parts = tmp_path / "parts"
    pq.write_to_dataset(table, parts, partition_cols=["site", "batch"])
    gene_table(adata, "token_id").to_csv(parts / "genes.csv", index=False)  # found by itself
    store, card = ingested(tmp_path, parts, labels=["site", "batch"], drop_empty=True)
    assert set(card["labels"]["site"]["categories"]) == {"site 0", "site 1", "site 2"}
    assert set(card["labels"]["batch"]["categories"]) == {"0", "1"}
    assert [site[name] for name in store.obs_names] == list(store.obs["site"])
    assert same_counts(store, adata[store.obs_names])


def test_partitions_that_contradict_their_files(adata, tmp_path):
    folder = orion(tmp_path / "flat", adata)
    table = pq.read_table(folder / "HCT116.parquet")
    gene_table(adata, "token_id").to_csv(tmp_path / "genes.tsv", index=False, sep="\t")
    parts = tmp_path / "parts"
    (parts / "site=A").mkdir(parents=True)
    table = table.append_column("site", pa.array(["A"] * table.num_rows))
    pq.write_table(table, parts / "site=A" / "part-0.parquet")
    options = {"labels": ["site"], "drop_empty": True, "genes_table": tmp_path / "genes.tsv"}
    assert ingest(parts, tmp_path / "same.zarr", **options)["labels"]["site"]["categories"] == ["A"]
    (parts / "site=A").rename(parts / "site=B")
    with pytest.raises(BadInput, match="column 'site' has 'A', its folder says 'B'"):
        ingest(parts, tmp_path / "other.zarr", **options)
    pq.write_table(table, parts / "loose.parquet")
    with pytest.raises(BadInput, match="in no folder site=VALUE"):
        ingest(parts, tmp_path / "other.zarr", **options)
