"""Export: what scanpy opens is what the store holds."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from small_data import small_adata

from cfgen_dist.cli import main
from data_loaders import BadInput, export, ingest, open_atlas, simulate
from data_loaders.exporting import export as module
from data_loaders.exporting import soma as soma_module


def test_h5ad_is_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLICE", 100)  # many slices
    simulate(tmp_path / "a.zarr", cells=300, genes=40, density=0.2, seed=2)
    export(tmp_path / "a.zarr", tmp_path / "a.h5ad")
    store, file = ad.read_zarr(tmp_path / "a.zarr"), ad.read_h5ad(tmp_path / "a.h5ad")
    assert (store.X != file.X).nnz == 0
    assert (file.X.dtype, file.X.indices.dtype) == (store.X.dtype, np.int32)
    pd.testing.assert_frame_equal(store.obs, file.obs)
    pd.testing.assert_frame_equal(store.var, file.var)
    for name in store.varm:
        np.testing.assert_array_equal(store.varm[name], file.varm[name])
    assert file.uns["atlas_card"] == store.uns["atlas_card"]
    np.testing.assert_array_equal(file.uns["truth"]["type_share"], store.uns["truth"]["type_share"])
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert (store.X[7:9] != backed[7:9].to_memory().X).nnz == 0
    backed.file.close()


def test_layers_and_embeddings_of_other_stores(tmp_path):
    adata = small_adata()
    adata.layers["dense"] = adata.X.toarray()
    adata.layers["csc"] = adata.X.tocsc()
    adata.obsm["latent"] = np.random.default_rng(0).normal(size=(60, 4))
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        adata.write_zarr(tmp_path / "a.zarr")
    export(tmp_path / "a.zarr", tmp_path / "a.h5ad")
    file = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(file.layers["dense"], adata.layers["dense"])
    assert (file.layers["csc"] != adata.layers["csc"]).nnz == 0
    np.testing.assert_array_equal(file.obsm["latent"], adata.obsm["latent"])
    pd.testing.assert_frame_equal(file.obs, adata.obs, check_dtype=False, check_categorical=False)


def test_an_exported_atlas_can_be_ingested(tmp_path):
    card = simulate(tmp_path / "a.zarr", cells=200, genes=30, density=0.2)
    export(tmp_path / "a.zarr", tmp_path / "a.h5ad")
    again = ingest(tmp_path / "a.h5ad", tmp_path / "b.zarr", labels=["cell_type"], min_cells=0, keep_order=True)
    first, second = ad.read_zarr(tmp_path / "a.zarr"), ad.read_zarr(tmp_path / "b.zarr")
    assert (first.X != second.X).nnz == 0
    assert again["nnz"] == card["nnz"]


def test_refusals(tmp_path, capsys):
    simulate(tmp_path / "a.zarr", cells=50, genes=10, types=2, density=0.2)
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput, match=r"`to='h5da'`: did you mean 'h5ad'\?"):
        export(tmp_path / "a.zarr", tmp_path / "a.h5ad", to="h5da")
    with pytest.raises(BadInput, match="no: no AnnData-Zarr store there"):
        export(tmp_path / "no", tmp_path / "a.h5ad")
    with pytest.raises(BadInput, match="exists already"):
        export(tmp_path / "a.zarr", tmp_path / "a.zarr")
    next((tmp_path / "a.zarr" / "X" / "data" / "c").iterdir()).write_bytes(b"cut")
    with pytest.raises(BadInput, match=r"a\.zarr: X/data cannot be read"):
        export(tmp_path / "a.zarr", tmp_path / "a.h5ad")
    assert set(tmp_path.iterdir()) == before


def test_a_disk_without_room_is_refused_before_writing(tmp_path, monkeypatch):
    simulate(tmp_path / "a.zarr", cells=50, genes=10, types=2, density=0.2)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(BadInput, match=r"a\.h5ad: no space left on device: 100 bytes are free, expected about"):
        export(tmp_path / "a.zarr", tmp_path / "a.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_command(tmp_path, capsys):
    simulate(tmp_path / "a.zarr", cells=50, genes=10, types=2, density=0.2)
    assert main(["export", str(tmp_path / "a.zarr"), str(tmp_path / "a.h5ad"), "--to", "h5ad"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").shape == (50, 10)


def test_soma_is_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(soma_module, "ROWS", 100)  # several slices
    simulate(tmp_path / "a.zarr", cells=250, genes=40, density=0.2, seed=2)
    assert main(["export", str(tmp_path / "a.zarr"), str(tmp_path / "a.soma"), "--to", "soma"]) == 0
    store, soma = open_atlas(tmp_path / "a.zarr"), open_atlas(tmp_path / "a.soma")
    assert (soma.n_cells, list(soma.genes)) == (250, list(store.genes))
    rows = np.arange(250)
    assert (soma.read(rows).to_scipy() != store.read(rows).to_scipy()).nnz == 0
    assert list(soma.obs_names()) == list(store.obs_names())
    for name in ("cell_type", "donor", "split"):
        assert list(np.asarray(soma.obs(name))) == list(np.asarray(store.obs(name)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.soma", "a.zarr"]
    with pytest.raises(BadInput, match="exists already"):
        export(tmp_path / "a.zarr", tmp_path / "a.soma", to="soma")
