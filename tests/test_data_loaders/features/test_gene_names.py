"""Genes are named by one rule in every container, ingested or streamed, and `var_names` overrules it."""

import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tiledbsoma.io as soma_io
from ingest_helpers import ingested, refused, write_zarr
from small_data import small_adata, write_10x_folder, write_10x_h5

from cfgen_dist.cli import main
from data_loaders import BadInput, ingest, open_atlas
from data_loaders.features.gene_names import name_features

IDS = [f"ENSG{i:011d}" for i in range(25)]
NUMBERS = [str(i) for i in range(25)]


def write(tmp_path, container, var):
    """An AnnData with this var in a container."""
    adata = small_adata()
    adata.var = var.copy()
    path = tmp_path / ("soma" if container == "soma" else f"a.{container}")
    if container == "h5ad":
        adata.write_h5ad(path)
    elif container == "zarr":
        write_zarr(adata, path, 2)
    elif container == "h5mu":
        from mudata import MuData

        MuData({"rna": adata}).write(path)
    else:  # as the Census has it: the index is a column of another name than var_id
        if "feature_id" not in adata.var:
            adata.var.index.name = None
        soma_io.from_anndata(str(path), adata, measurement_name="RNA", var_id_name="some_id")
        import tiledbsoma

        if list(var.index) == NUMBERS:
            with tiledbsoma.Experiment.open(str(path)) as experiment:
                assert "some_id" in experiment.ms["RNA"].var.schema.names
    return path


@pytest.mark.parametrize("container", ["h5ad", "zarr", "h5mu", "soma"])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"feature_id": IDS, "feature_name": [f"S{i}" for i in range(25)]}, "feature_id"),
        ({"gene_symbols": ["A"] * 25, "Gene IDs": IDS}, "Gene IDs"),
        ({"length": list(range(25)), "gene_name": IDS, "biotype": ["x"] * 25}, "gene_name"),
        ({"entrez": NUMBERS, "my_own": IDS}, "my_own"),
    ],
)
def test_bare_numbers_yield_to_the_first_column_of_unique_text(tmp_path, container, columns, expected, caplog):
    path = write(tmp_path, container, pd.DataFrame(columns, index=NUMBERS))
    out, card = ingested(tmp_path, path)
    assert list(out.var_names) == columns[expected]
    assert any(
        note == f"{card['sources'][0]['path']}: genes are named by var[{expected!r}]; the names of var are numbers"
        for note in card["notes"]
    )
    if container != "h5mu":
        caplog.clear()
        atlas = open_atlas(path)
        assert list(atlas.genes) == columns[expected]
        assert caplog.messages == [f"{path}: genes are named by var[{expected!r}]; the names of var are numbers"]
        assert expected not in atlas.var


@pytest.mark.parametrize("container", ["h5ad", "zarr", "soma"])
def test_numbers_stay_where_there_is_nothing_else_and_that_is_said(tmp_path, container):
    path = write(tmp_path, container, pd.DataFrame({"kind": ["a"] * 25}, index=NUMBERS))
    out, card = ingested(tmp_path, path)
    assert list(out.var_names) == NUMBERS
    assert any("genes are named by numbers; no column of var is text and unique" in note for note in card["notes"])
    assert list(open_atlas(path).genes) == NUMBERS


@pytest.mark.parametrize("container", ["h5ad", "zarr"])
def test_an_index_of_unique_text_stays(tmp_path, container):
    symbols = [f"S{i}" for i in range(25)]
    path = write(tmp_path, container, pd.DataFrame({"gene_ids": IDS, "feature_id": IDS}, index=symbols))
    out, card = ingested(tmp_path, path)
    assert list(out.var_names) == symbols
    assert not any("named by" in note for note in card["notes"])
    assert list(open_atlas(path).genes) == symbols


def test_var_id_is_the_index_of_soma(tmp_path):
    adata = small_adata()
    adata.var["feature_id"] = IDS
    soma_io.from_anndata(str(tmp_path / "soma"), adata, measurement_name="RNA")
    assert list(open_atlas(tmp_path / "soma").genes) == list(adata.var_names)
    for word in ("var_id", "index"):
        assert list(open_atlas(tmp_path / "soma", var_names=word).genes) == list(adata.var_names)
    atlas = open_atlas(tmp_path / "soma", var_names="feature_id")
    assert list(atlas.genes) == IDS
    assert list(atlas.var["var_id"]) == list(adata.var_names)


def test_repeated_names_yield_to_identifiers_only(tmp_path):
    var = pd.DataFrame({"symbol": [f"S{i}" for i in range(25)], "gene_ids": IDS}, index=["A", "A", *NUMBERS[2:]])
    path = write(tmp_path, "h5ad", var)
    out, card = ingested(tmp_path, path)
    assert list(out.var_names) == IDS
    assert list(out.var["index"]) == list(var.index)
    assert any("genes are named by var['gene_ids']; the names of var repeat" in note for note in card["notes"])
    assert list(open_atlas(path).genes) == IDS
    shutil.rmtree(tmp_path / "out.zarr")
    message = refused(tmp_path, write(tmp_path, "h5ad", var.drop(columns="gene_ids")))
    assert message.endswith("or take the names of a column that is unique, `var_names='symbol'`")


@pytest.mark.parametrize("container", ["h5ad", "zarr", "soma"])
def test_var_names_overrules(tmp_path, container):
    var = pd.DataFrame({"gene_ids": IDS, "entrez": np.arange(100, 125), "kind": ["a", "b"] * 12 + ["c"]})
    var.index = [f"S{i}" for i in range(25)]
    path = write(tmp_path, container, var)
    out, card = ingested(tmp_path, path, var_names="gene_ids", genes=None)
    assert list(out.var_names) == IDS
    assert "gene_ids" not in out.var
    assert card["options"]["var_names"] == "gene_ids"
    assert list(out.var["some_id" if container == "soma" else "index"]) == list(var.index)
    assert list(open_atlas(path, var_names="gene_ids").genes) == IDS
    shutil.rmtree(tmp_path / "out.zarr")
    out, _ = ingested(tmp_path, path, var_names="entrez")
    assert list(out.var_names) == [str(i) for i in range(100, 125)]
    shutil.rmtree(tmp_path / "out.zarr")
    for name, message in (
        ("gene_id", "no var column 'gene_id' to name genes by; did you mean 'gene_ids'?"),
        ("kind", "var column 'kind' names 12 genes 'a', and so with 2 names; expected a unique name for each; "),
    ):
        assert message in refused(tmp_path, path, var_names=name)
        with pytest.raises(BadInput) as error:
            open_atlas(path, var_names=name)
        assert message in str(error.value)
        assert "'gene_ids'" in str(error.value)


def test_columns_with_gaps_or_fractions(tmp_path):
    var = pd.DataFrame({"gaps": [None, *IDS[1:]], "half": np.arange(25) / 2}, index=small_adata().var_names)
    path = write(tmp_path, "h5ad", var)
    assert "var column 'gaps' has no value for 1 of 25 genes" in refused(tmp_path, path, var_names="gaps")
    assert "'half' holds neither text nor whole numbers; expected" in refused(tmp_path, path, var_names="half")


def test_10x_symbols_are_numbered_and_identifiers_can_be_asked_for(tmp_path):
    adata = small_adata()
    write_10x_h5(tmp_path / "a.h5", adata, version=3)
    write_10x_folder(tmp_path / "b", adata)
    out, card = ingested(tmp_path, tmp_path / "a.h5", var_names="gene_id")
    assert list(out.var_names) == list(adata.var_names)
    assert list(out.var["gene_symbol"][:3]) == ["SAME", "SAME", "g2"]
    assert not any("numbered" in note for note in card["notes"])
    shutil.rmtree(tmp_path / "out.zarr")
    out, _ = ingested(tmp_path, tmp_path / "b", var_names="gene_id")
    assert list(out.var_names) == [f"ENS{i}" for i in range(25)]
    shutil.rmtree(tmp_path / "out.zarr")
    assert "did you mean 'gene_id'?" in refused(tmp_path, tmp_path / "b", var_names="gene_ids")


def test_a_column_for_each_source(tmp_path):
    symbols = [f"S{i}" for i in range(25)]
    first, second = small_adata(), small_adata(seed=1)
    first.var = pd.DataFrame({"gene_ids": IDS}, index=symbols)
    second.var = pd.DataFrame({"feature_name": symbols}, index=IDS)
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for adata, path in zip((first, second), paths, strict=True):
        adata.write_h5ad(path)
    out, _ = ingested(tmp_path, paths, var_names=["index", "feature_name"])
    assert list(out.var_names) == symbols
    assert open_atlas(paths, var_names=["gene_ids", "index"]).genes.tolist() == IDS
    shutil.rmtree(tmp_path / "out.zarr")
    assert "`var_names`: 3 columns for 2 sources" in refused(tmp_path, paths, var_names=["a", "b", "c"])
    with pytest.raises(BadInput, match="`var_names`: 3 columns for 2 sources; expected one, or one for each"):
        open_atlas(paths, var_names=["a", "b", "c"])


def test_our_own_atlases_keep_their_names(tmp_path):
    adata = small_adata()
    adata.var = pd.DataFrame({"feature_id": IDS}, index=NUMBERS)
    adata.write_h5ad(tmp_path / "a.h5ad")
    ingest(tmp_path / "a.h5ad", tmp_path / "a.zarr", min_cells=0, var_names="index")
    assert list(open_atlas(tmp_path / "a.zarr").genes) == NUMBERS  # as models know them
    assert list(open_atlas(tmp_path / "a.zarr", var_names="feature_id").genes) == IDS
    ad.read_zarr(tmp_path / "a.zarr").write_zarr(tmp_path / "b.zarr")
    assert list(open_atlas(tmp_path / "b.zarr").genes) == IDS  # another program's store: no longer our atlas


def test_what_is_no_name():
    var = pd.DataFrame(
        {"feature_id": ["", *IDS[1:3]], "gene_ids": [1, 2, 3], "name": ["x", "y", "z"]}, index=["0", "1.0", " 2-1"]
    )
    named = name_features("a", var)
    assert list(named.var.index) == ["x", "y", "z"]
    assert named.notes == ["a: genes are named by var['name']; the names of var are numbers"]


def test_the_command(tmp_path, capsys):
    path = write(tmp_path, "h5ad", pd.DataFrame({"gene_ids": IDS}, index=[f"S{i}" for i in range(25)]))
    words = ["ingest", str(path), str(tmp_path / "a.zarr"), "--min-cells", "0"]
    assert main([*words, "--var-names", "gene_idz"]) == 2
    assert "no var column 'gene_idz' to name genes by; did you mean 'gene_ids'?" in capsys.readouterr().err
    assert main([*words, "--var-names", "gene_ids"]) == 0
    assert list(open_atlas(tmp_path / "a.zarr").genes) == IDS
