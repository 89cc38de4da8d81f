"""Several modalities: from files to one atlas, streamed together, and out again."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from multimodal_data import paired, write_pair
from scipy.sparse import csr_matrix
from small_data import small_adata

from cfgen_dist.cli import main
from data_loaders import AtlasWriter, BadInput, CellStream, export, ingest, open_atlas
from data_loaders.ingestion import buckets


def same_cells(atlas, rna, atac):
    """Whether both matrices are those of the files, rows and columns matched by name."""
    names = atlas.obs_names()
    first, second = atlas.read(np.arange(len(atlas))), atlas.read(np.arange(len(atlas)), "atac")
    columns = atlas.features("atac").index
    return np.array_equal(first.to_scipy().toarray(), rna[names, atlas.genes].X.toarray()) and np.array_equal(
        second.to_scipy().toarray(), atac[names, columns].X.toarray()
    )


def two_files(folder, out="atlas.zarr", **options):
    rna, atac = folder / "rna.h5ad", folder / "atac.h5ad"
    return ingest({"rna": rna, "atac": atac}, folder / out, **({"labels": ["cell_type"], "min_cells": 0} | options))


@pytest.mark.parametrize("bucket", [buckets.BUCKET_VALUES, 500])
def test_two_files_become_one_atlas(tmp_path, monkeypatch, bucket):
    """Also in many buckets, which must hold the same cells in both modalities."""
    monkeypatch.setattr(buckets, "BUCKET_VALUES", bucket)
    write_pair(tmp_path)
    rna, atac = paired()
    card = two_files(tmp_path)
    atlas = open_atlas(tmp_path / "atlas.zarr")
    assert atlas.modalities == ("rna", "atac")
    assert same_cells(atlas, rna, atac)
    sums = atac[atlas.obs_names()].X.sum(axis=1)
    np.testing.assert_array_equal(atlas.obs("size_factor_atac"), np.asarray(sums).ravel())
    assert card["modalities"]["rna"] == {
        "n_features": 40,
        "nnz": rna.X.nnz,
        "density": rna.X.nnz / 8000,
        "largest": int(rna.X.max()),
        "likelihood": "nb",
    }
    assert card["modalities"]["atac"]["likelihood"] == "bernoulli"
    assert card["modalities"]["atac"]["n_features"] == 60
    training = atac[atlas.obs_names()[atlas.rows(split="train")]].X.toarray()
    features = atlas.features("atac")
    np.testing.assert_allclose(features["mean"], training.mean(axis=0))
    np.testing.assert_array_equal(features["n_cells"], (atac.X.toarray() > 0).sum(axis=0))


def test_modalities_are_streamed_together(tmp_path):
    write_pair(tmp_path)
    rna, atac = paired()
    two_files(tmp_path)
    atlas = open_atlas(tmp_path / "atlas.zarr")
    names, seen = atlas.obs_names(), 0
    for batch in CellStream(atlas, 64, labels=["cell_type"]):
        for key, adata in (("rna", rna), ("atac", atac)):
            np.testing.assert_array_equal(batch.counts[key].to_scipy().toarray(), adata[names[batch.rows]].X.toarray())
        seen += len(batch)
    assert seen == len(atlas)


def test_an_h5mu_file(tmp_path):
    """Labels may stand in the file's own obs; the features below the bound go, in each modality."""
    rna, atac = paired()
    kind = rna.obs.pop("cell_type")
    both = mudata.MuData({"rna": rna, "atac": atac})
    both.obs["cell_type"] = kind
    both.write_h5mu(tmp_path / "both.h5mu")
    bound = int(np.median((atac.X.toarray() > 0).sum(axis=0)))
    card = ingest(tmp_path / "both.h5mu", tmp_path / "a.zarr", labels=["cell_type"], min_cells=bound)
    atlas = open_atlas(tmp_path / "a.zarr")
    assert same_cells(atlas, rna, atac)
    choosing = atlas.obs_names()[np.asarray(atlas.obs("split")).astype(str) != "test"]
    n_cells = (atac[choosing].X.toarray() > 0).sum(axis=0)
    assert list(atlas.features("atac").index) == list(atac.var_names[n_cells >= bound])
    assert card["dropped"]["atac_features_below_min_cells"] == 60 - len(atlas.features("atac"))
    assert list(np.array(atlas.categories("cell_type"))[atlas.codes("cell_type")]) == list(kind[atlas.obs_names()])
    ingest({"rna": f"{tmp_path}/both.h5mu:rna", "peaks": f"{tmp_path}/both.h5mu:atac"}, tmp_path / "b.zarr")
    assert open_atlas(tmp_path / "b.zarr").modalities == ("rna", "peaks")


def test_barcodes_may_repeat_between_sources(tmp_path):
    """Two samples, each with both modalities: cells are matched within their sample."""
    pairs = []
    for k in range(2):
        (tmp_path / f"s{k}").mkdir()
        write_pair(tmp_path / f"s{k}", seed=k)
        pairs.append(paired(seed=k))
    sources = {name: [tmp_path / f"s{k}" / f"{name}.h5ad" for k in range(2)] for name in ("rna", "atac")}
    ingest(sources, tmp_path / "a.zarr", min_cells=0, keep_order=True)
    atlas = open_atlas(tmp_path / "a.zarr")
    for key, place in (("rna", 0), ("atac", 1)):
        expected = np.concatenate([pair[place].X.toarray() for pair in pairs])
        np.testing.assert_array_equal(atlas.read(np.arange(400), key).to_scipy().toarray(), expected)


def test_cells_that_differ(tmp_path):
    write_pair(tmp_path)
    rna, atac = paired()
    some = atac[20:].copy()
    some.obs_names = [*some.obs_names[:-1], "stranger"]
    some.write_h5ad(tmp_path / "atac.h5ad")
    with pytest.raises(BadInput) as error:
        two_files(tmp_path)
    assert "atac.h5ad: lacks 21 of the 200 cells of" in str(error.value)
    assert str(error.value).endswith(
        "has 1 others; expected the same cells; `cells='shared'` keeps those that both have, `cells='rna'` also those "
        "without atac"
    )
    assert not (tmp_path / "atlas.zarr").exists()
    card = two_files(tmp_path, cells="shared")
    assert card["n_cells"] == 179
    assert same_cells(open_atlas(tmp_path / "atlas.zarr"), rna, atac)
    card = two_files(tmp_path, out="all.zarr", cells="rna")
    atlas = open_atlas(tmp_path / "all.zarr")
    assert card["n_cells"] == 200
    assert (atlas.obs("size_factor_atac") == 0).sum() == 21
    assert "all cells of rna are kept" in card["notes"][0]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"gex": "rna.h5ad", "atac": "atac.h5ad"}, "modalities gex, atac: none is called 'rna'"),
        ({"rna": ["rna.h5ad", "atac.h5ad"], "atac": "atac.h5ad"}, "modality 'atac' has 1 sources, 'rna' 2; expected"),
        ({"rna": "rna.h5ad", "a/b": "atac.h5ad"}, "modality 'a/b': expected letters, digits, '-' and '_', not latent"),
        ({"rna": "rna.h5ad", "atac": "other.h5ad"}, "other.h5ad: none of its cells is in"),
        ({"rna": "both.h5mu:rn", "atac": "atac.h5ad"}, "both.h5mu: no modality 'rn'; did you mean 'rna'?"),
        (["both.h5mu", "rna.h5ad"], "rna.h5ad: beside h5mu files; expected h5mu files only"),
        (["nothing.h5mu"], "nothing.h5mu: no such file; expected an h5mu file"),
        (["bad.h5mu"], "bad.h5mu: no modalities in it; expected an h5mu file as mudata writes it"),
        (["both.h5mu", "both.h5mu"], "both.h5mu: given more than once; expected each source once"),
        (["both.h5mu", "three.h5mu"], "three.h5mu: modalities rna, atac, adt;"),
    ],
)
def test_refusals(tmp_path, sources, message):
    write_pair(tmp_path)
    rna, atac = paired()
    other = small_adata()
    other.obs_names = [f"x{i}" for i in range(60)]
    other.write_h5ad(tmp_path / "other.h5ad")
    other.write_h5ad(tmp_path / "bad.h5mu")
    mudata.MuData({"rna": rna, "atac": atac}).write_h5mu(tmp_path / "both.h5mu")
    mudata.MuData({"rna": rna, "atac": atac, "adt": rna.copy()}).write_h5mu(tmp_path / "three.h5mu")

    def place(name):
        return f"{tmp_path}/{name}"

    if isinstance(sources, dict):
        sources = {k: list(map(place, v)) if isinstance(v, list) else place(v) for k, v in sources.items()}
    else:
        sources = list(map(place, sources))
    with pytest.raises(BadInput) as error:
        ingest(sources, tmp_path / "out.zarr", min_cells=0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.zarr").exists()


def test_cells_without_counts_in_a_modality(tmp_path):
    write_pair(tmp_path)
    _, atac = paired()
    atac.X = csr_matrix(atac.X.multiply((np.arange(200) != 7)[:, None]))
    atac.write_h5ad(tmp_path / "atac.h5ad")
    with pytest.raises(BadInput, match="cell 'cell7' has no atac counts in the chosen genes, one of 1 such cells"):
        two_files(tmp_path)
    assert two_files(tmp_path, drop_empty=True)["n_cells"] == 199


def test_the_command(tmp_path, capsys):
    write_pair(tmp_path)
    out = str(tmp_path / "a.zarr")
    options = ["--modality", f"rna={tmp_path}/rna.h5ad", "--modality", f"atac={tmp_path}/atac.h5ad"]
    assert main(["ingest", out, *options, "--labels", "cell_type", "--min-cells", "0"]) == 0
    assert open_atlas(out).modalities == ("rna", "atac")
    assert main(["describe", out]) == 0
    assert "modality    atac: 60 features" in capsys.readouterr().out
    for words, message in (
        ([out], "no sources; expected SRC... OUT, or --modality NAME=PATH for each modality and OUT"),
        (["x.h5ad", out, "--modality", "rna=y.h5ad"], "x.h5ad: a source beside --modality"),
        ([out, "--modality", "rna"], "--modality rna: expected NAME=PATH, such as atac=peaks.h5ad"),
    ):
        assert main(["ingest", *words]) == 2
        assert message in capsys.readouterr().err


def test_export_to_h5mu_is_what_mudata_reads(tmp_path):
    write_pair(tmp_path)
    rna, atac = paired()
    two_files(tmp_path)
    export(tmp_path / "atlas.zarr", tmp_path / "a.h5mu", to="h5mu")
    both = mudata.read_h5mu(tmp_path / "a.h5mu")
    assert list(both.mod) == ["rna", "atac"]
    for key, adata in (("rna", rna), ("atac", atac)):
        np.testing.assert_array_equal(both[key].X.toarray(), adata[both.obs_names, both[key].var_names].X.toarray())
    pd.testing.assert_series_equal(
        both.obs["cell_type"].astype(str), rna.obs["cell_type"].astype(str)[both.obs_names], check_names=False
    )
    both.update()  # recomputes the maps between modalities: they must have been right
    assert both.n_vars == 100
    ingest(tmp_path / "a.h5mu", tmp_path / "again.zarr", labels=["cell_type"], min_cells=0)
    assert same_cells(open_atlas(tmp_path / "again.zarr"), rna, atac)


def test_export_of_one_modality_to_h5mu_is_refused(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    ingest(tmp_path / "a.h5ad", tmp_path / "a.zarr", min_cells=0)
    with pytest.raises(BadInput, match="has modality 'rna' only; expected several for h5mu"):
        export(tmp_path / "a.zarr", tmp_path / "a.h5mu", to="h5mu")
    assert not (tmp_path / "a.h5mu").exists()


def test_a_store_that_does_not_name_its_features(tmp_path):
    rna, atac = paired()
    rna.obsm["atac"] = atac.X
    rna.write_zarr(tmp_path / "a.zarr")
    with pytest.raises(BadInput, match=r"no table of the features of modality 'atac'; expected uns\['features'\]"):
        open_atlas(tmp_path / "a.zarr").features("atac")
    with pytest.raises(BadInput, match="the features of modality 'atac' have no names"):
        export(tmp_path / "a.zarr", tmp_path / "a.h5mu", to="h5mu")


def test_the_writer_wants_every_modality(tmp_path):
    rna, atac = paired()
    writer = AtlasWriter(tmp_path / "a.zarr", rna.var, modalities={"atac": atac.var})
    with writer, pytest.raises(ValueError, match=r"modalities \[\] given, \['atac'\] expected"):
        writer.append(rna.X, rna.obs)
    writer.discard()


def test_anndata_opens_the_store(tmp_path):
    write_pair(tmp_path)
    two_files(tmp_path)
    store = ad.read_zarr(tmp_path / "atlas.zarr")
    _, atac = paired()
    np.testing.assert_array_equal(store.obsm["atac"].toarray(), atac[store.obs_names].X.toarray())
    assert list(store.uns["features"]["atac"].index) == list(atac.var_names)
