"""Sources: every layout gives the same counts."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from ingest_helpers import ingested, refused, write_zarr
from scipy.sparse import csc_matrix, csr_matrix
from small_data import same_counts, small_adata, write_10x_folder, write_10x_h5

from data_loaders.sources import open as sources
from data_loaders.sources.matrices import DenseMatrix
from data_loaders.sources.source import Source

pytestmark = pytest.mark.usefixtures("small_pieces")


@pytest.mark.parametrize("kind", [csr_matrix, csc_matrix, lambda counts: counts.toarray()], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("store", ["h5ad", "zarr2", "zarr3"])
def test_every_layout_gives_the_same_counts(tmp_path, kind, store):
    adata = small_adata()
    adata.X = kind(adata.X)
    path = tmp_path / ("a.h5ad" if store == "h5ad" else "a.zarr")
    if store == "h5ad":
        adata.write_h5ad(path)
    else:
        write_zarr(adata, path, int(store[-1]))
    out, card = ingested(tmp_path, path, labels=["cell_type", "donor"])
    assert same_counts(out, adata)
    assert sorted(out.obs["source_row"]) == list(range(60))
    assert (out.obs_names == adata.obs_names[out.obs["source_row"]]).all()
    for name in adata.obs:
        assert (out.obs[name].astype(str) == adata.obs[name].iloc[out.obs["source_row"]].astype(str)).all()
    assert (out.var["symbol"] == adata.var["symbol"]).all()
    assert card["sources"][0]["counts"] == "X"


def test_stored_zeros_duplicates_and_unsorted_columns(tmp_path):
    adata = small_adata()[:3, :3].copy()
    matrix = csr_matrix((3, 3))
    matrix.data, matrix.indices = np.array([1.0, 2.0, 0.0, 4.0, 5.0, 7.0]), np.array([2, 0, 1, 1, 1, 0])
    matrix.indptr = np.array([0, 3, 5, 6])
    adata.X = matrix
    adata.write_h5ad(tmp_path / "a.h5ad")
    out, _ = ingested(tmp_path, tmp_path / "a.h5ad", keep_order=True)
    np.testing.assert_array_equal(out.X.toarray(), [[2, 0, 1], [0, 9, 0], [7, 0, 0]])
    assert out.X.nnz == 4


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5(tmp_path, version):
    adata = small_adata()
    write_10x_h5(tmp_path / "a.h5", adata, version=version)
    out, card = ingested(tmp_path, tmp_path / "a.h5", keep_order=True)
    np.testing.assert_array_equal(out.X.toarray(), adata.X.toarray())
    assert list(out.var_names[:3]) == ["SAME", "SAME-1", "g2"]
    assert list(out.var["gene_id"]) == list(adata.var_names)
    assert any("1 repeated gene symbols were numbered" in note for note in card["notes"])


def test_10x_h5_keeps_gene_expression_only(tmp_path):
    adata = small_adata()
    write_10x_h5(tmp_path / "a.h5", adata, version=3, peaks=10)
    out, card = ingested(tmp_path, tmp_path / "a.h5", keep_order=True)
    np.testing.assert_array_equal(out.X.toarray(), adata.X.toarray()[:, :15])
    assert any("10 features that are not of type 'Gene Expression'" in note for note in card["notes"])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_10x_folder_with_labels_from_a_table(tmp_path, suffix):
    adata = small_adata()
    write_10x_folder(tmp_path / "a", adata, suffix=suffix)
    adata.obs[["cell_type", "donor"]].iloc[::-1].to_csv(tmp_path / "obs.csv")
    out, _ = ingested(tmp_path, tmp_path / "a", labels=["cell_type"], obs_files=tmp_path / "obs.csv")
    assert same_counts(out, adata)
    assert (out.obs["cell_type"].astype(str) == adata.obs["cell_type"][out.obs_names].astype(str)).all()
    assert (out.obs["donor"] == adata.obs["donor"][out.obs_names]).all()


def test_obs_tables_are_refused_when_they_do_not_fit(tmp_path):
    adata = small_adata()
    write_10x_folder(tmp_path / "a", adata)
    table = tmp_path / "obs.csv"
    adata.obs.set_axis([f"x{i}" for i in range(60)]).to_csv(table)
    message = refused(tmp_path, tmp_path / "a", obs_files=table)
    assert "none of its cells is in" in message
    assert "'x0'" in message
    assert "'cell0'" in message
    pd.concat([adata.obs, adata.obs.iloc[:1]]).to_csv(table)
    assert "cell 'cell0' has more than one row" in refused(tmp_path, tmp_path / "a", obs_files=table)
    assert "no such file" in refused(tmp_path, tmp_path / "a", obs_files=tmp_path / "no.csv")
    assert "2 tables for 1 sources" in refused(tmp_path, tmp_path / "a", obs_files=[table, table])
    adata.obs.iloc[5:].to_csv(table)
    message = refused(tmp_path, tmp_path / "a", obs_files=table, labels=["donor"])
    assert "'donor' has no value in 5 of 60 cells, the first is row 0 ('cell0')" in message


def test_obs_tables_keep_text_as_it_is(tmp_path):
    adata = small_adata()
    adata.obs_names = [f"{i:05d}" for i in range(60)]
    write_10x_folder(tmp_path / "a", adata)
    for corner in ("cell,", ""):  # R leaves the corner of the header out
        lines = [f"{corner}code,kind,size,clone"]
        lines += [f"{i:05d},{('001', '01')[i % 2]},{('NA', 'B')[i % 2]},{i % 7},{i % 3}" for i in range(60)]
        (tmp_path / "obs.csv").write_text("\n".join(lines))
        options = {"labels": ["code", "kind", "clone"], "obs_files": tmp_path / "obs.csv", "keep_order": True}
        out, _ = ingested(tmp_path, tmp_path / "a", **options)
        assert list(out.obs_names[:2]) == ["00000", "00001"]
        assert list(out.obs["code"][:2]) == ["001", "01"]
        assert list(out.obs["kind"][:2]) == ["NA", "B"]
        assert list(out.obs["clone"].cat.categories) == ["0", "1", "2"]
        assert out.obs["size"].dtype.kind == "i"
        shutil.rmtree(tmp_path / "out.zarr")
    (tmp_path / "obs.csv").write_text("\n".join(lines).replace("NA,0", ",0"))
    message = refused(tmp_path, tmp_path / "a", **options)
    assert "obs column 'kind' has no value in" in message
    (tmp_path / "obs.csv").write_text("cell,kind\n")
    assert "obs.csv: a table without cells; expected cell names in its first column" in refused(
        tmp_path, tmp_path / "a", obs_files=tmp_path / "obs.csv"
    )


def test_counts_are_found_in_x_layers_or_raw(tmp_path):
    adata = small_adata()
    logged = np.log1p(adata.X.toarray())
    path = tmp_path / "a.h5ad"

    def found(**options):
        out, card = ingested(tmp_path, path, **options)
        assert same_counts(out, adata)
        shutil.rmtree(tmp_path / "out.zarr")
        return card["sources"][0]["counts"]

    changed = ad.AnnData(logged, obs=adata.obs, var=adata.var, layers={"a_scaled": -logged, "counts": adata.X})
    changed.write_h5ad(path)
    assert found() == "layers['counts']"
    assert found(layer="counts") == "layers['counts']"

    changed = ad.AnnData(logged, obs=adata.obs, var=adata.var)
    changed.raw = adata
    changed[:, :10].copy().write_h5ad(path)  # raw keeps all genes
    assert found() == "raw.X"
    assert found(raw=True) == "raw.X"


def test_named_elements_that_are_not_there(tmp_path):
    adata = small_adata()
    adata.layers["counts"] = adata.X
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "no layer 'count'; did you mean 'counts'?" in refused(tmp_path, tmp_path / "a.h5ad", layer="count")
    assert "`raw=True` was asked for, but it has no raw" in refused(tmp_path, tmp_path / "a.h5ad", raw=True)
    assert "expected one of them" in refused(tmp_path, tmp_path / "a.h5ad", raw=True, layer="counts")
    write_10x_h5(tmp_path / "b.h5", adata, version=3)
    message = refused(tmp_path, tmp_path / "b.h5", layer="counts")
    assert (
        "b.h5: `layer` chooses within an AnnData, a modality of a MuData, Parquet of cells or a SOMA experiment"
        in message
    )
    assert message.endswith("this is 10x output, which takes no such option")


def test_only_the_usual_matrices_are_taken_before_others(tmp_path):
    adata = small_adata()
    logged = np.log1p(adata.X.toarray())
    path = tmp_path / "a.h5ad"
    changed = ad.AnnData(logged, obs=adata.obs, var=adata.var, layers={"binary": adata.X > 0})
    changed.write_h5ad(path)
    _, card = ingested(tmp_path, path)
    assert card["sources"][0]["counts"] == "layers['binary']"  # the only whole numbers
    shutil.rmtree(tmp_path / "out.zarr")

    changed.raw = adata
    changed.write_h5ad(path)
    _, card = ingested(tmp_path, path)
    assert card["sources"][0]["counts"] == "raw.X"
    shutil.rmtree(tmp_path / "out.zarr")

    layers = {"ambiguous": adata.X, "spliced": adata.X, "scaled": -logged}
    ad.AnnData(logged, obs=adata.obs, var=adata.var, layers=layers).write_h5ad(path)
    message = refused(tmp_path, path)
    assert "X has fractional values" in message
    assert "whole numbers are in layers['ambiguous'], layers['spliced']; expected one of them" in message
    assert message.endswith("choose by `layer=NAME`")


def test_an_empty_x_is_none(tmp_path):
    adata = small_adata()
    counts, adata.X = adata.X, None
    adata.layers["spliced"] = counts
    adata.write_h5ad(tmp_path / "a.h5ad")
    write_zarr(adata, tmp_path / "a.zarr", 3)
    for name in ("a.h5ad", "a.zarr"):
        out, card = ingested(tmp_path, tmp_path / name, keep_order=True)
        assert card["sources"][0]["counts"] == "layers['spliced']"
        np.testing.assert_array_equal(out.X.toarray(), counts.toarray())
        shutil.rmtree(tmp_path / "out.zarr")
    del adata.layers["spliced"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert "no X, layers or raw in it; expected raw counts" in refused(tmp_path, tmp_path / "a.h5ad")


@pytest.mark.parametrize("dtype", ["float16", ">f4", ">i4"])
@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_types_that_scipy_does_not_take(tmp_path, dtype, kind):
    adata = small_adata()
    path = tmp_path / "a.h5ad"
    (adata if kind != "csc" else ad.AnnData(adata.X.tocsc(), obs=adata.obs, var=adata.var)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if kind == "dense":
            del file["X"]
            file["X"] = adata.X.toarray().astype(dtype)
            file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            values = file["X/data"][:].astype(dtype)
            del file["X/data"]
            file["X/data"] = values
    out, _ = ingested(tmp_path, path)
    assert same_counts(out, adata)


@pytest.mark.heavy
def test_real_files_come_through_unchanged(tmp_path, real_data):
    adata = ad.read_h5ad(real_data / "pbmc3k.h5ad")
    out, _ = ingested(tmp_path, real_data / "pbmc3k.h5ad", labels=["cell_type"], min_cells=30)
    n_cells = (adata[out.obs_names[out.obs["split"] != "test"]].X > 0).sum(axis=0)
    assert out.shape == (2638, (np.asarray(n_cells) >= 30).sum())
    expected = adata[out.obs_names, out.var_names].X
    assert (abs(out.X.astype(int) - expected.astype(int))).nnz == 0
    assert (out.obs["cell_type"].astype(str) == adata.obs["cell_type"][out.obs_names].astype(str)).all()


def test_a_format_is_two_functions_and_a_line(tmp_path, monkeypatch):
    def recognises(path):
        return path.endswith(".counts")

    def open(path, options):
        table = pd.read_csv(path, index_col=0)
        obs, var = pd.DataFrame(index=table.index), pd.DataFrame(index=table.columns)
        matrix = DenseMatrix(f"{path}: counts", zarr.array(table.to_numpy()))
        return Source(path, obs, var, matrix, np.arange(len(var)), counts_from="counts")

    line = sources.Format("counts of a test", "FILE.counts", recognises, open)
    monkeypatch.setattr(sources, "FORMATS", (*sources.FORMATS, line))
    adata = small_adata()
    adata.to_df().astype(int).to_csv(tmp_path / "a.counts")
    out, _ = ingested(tmp_path, tmp_path / "a.counts")
    assert same_counts(out, adata)
    shutil.rmtree(tmp_path / "out.zarr")
    message = refused(tmp_path, tmp_path / "a.counts", layer="counts")
    assert message.endswith("a SOMA experiment; this is counts of a test, which takes no such option")
    assert refused(tmp_path, tmp_path / "a.xyz").endswith("(folder or URI) or counts of a test (FILE.counts)")
