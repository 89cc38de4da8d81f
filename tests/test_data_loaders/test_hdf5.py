"""h5ad files compressed by plugins of HDF5, and files of anndata before 0.7: read, or refused by the filter's name."""

import subprocess
import sys
import textwrap

import anndata as ad
import h5py
import numpy as np
import pytest
from ingest_helpers import ingested, refused
from small_data import same_counts, small_adata

from data_loaders import open_atlas
from data_loaders.older_h5ad import Renewed

hdf5plugin = pytest.importorskip("hdf5plugin")


def filters():
    return {"zstd": hdf5plugin.Zstd(), "lz4": hdf5plugin.LZ4(), "blosc": hdf5plugin.Blosc(),
            "bitshuffle": hdf5plugin.Bitshuffle()}  # fmt: skip


@pytest.mark.parametrize("name", ["zstd", "lz4", "blosc", "bitshuffle"])
def test_compressed_by_a_plugin(tmp_path, name):
    adata = small_adata()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for part in ("data", "indices"):
            values = file[f"X/{part}"][:]
            del file[f"X/{part}"]
            file.create_dataset(f"X/{part}", data=values, chunks=(100,), **filters()[name])
    out, _ = ingested(tmp_path, tmp_path / "a.h5ad", labels=["cell_type"])
    assert same_counts(out, adata)
    rows = open_atlas(tmp_path / "a.h5ad").read(np.arange(60)).to_scipy()
    assert (rows.toarray() == adata.X.toarray()).all()


@pytest.mark.heavy
def test_without_the_plugin_the_filter_is_named(tmp_path):
    small_adata().write_h5ad(tmp_path / "a.h5ad", compression=hdf5plugin.FILTERS["zstd"])
    with h5py.File(tmp_path / "b.h5ad", "w") as file, h5py.File(tmp_path / "a.h5ad") as whole:
        for key in whole:  # obs and var alone are compressed by a plugin
            whole.copy(key, file)
        file.attrs.update(whole.attrs)
        for part in ("data", "indices", "indptr"):
            values = file[f"X/{part}"][:]
            del file[f"X/{part}"]
            file[f"X/{part}"] = values
    code = textwrap.dedent("""
        import sys
        sys.modules["hdf5plugin"] = None  # as if it were not installed
        from data_loaders import BadInput, ingest, open_atlas
        for path in sys.argv[1:]:
            for use in (lambda: ingest([path], path + ".zarr"), lambda: open_atlas(path).codes("cell_type")):
                try:
                    use()
                except BadInput as error:
                    print(error)
    """)
    paths = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    for line in lines:
        assert "is compressed with zstd (HDF5 filter 32015), which needs hdf5plugin: install it" in line
        assert "damaged" not in line
    assert "X/data" in lines[0]
    assert "obs/" in lines[2]


def write_old(path, adata, *, raw=False, dense=False):
    """Write the h5ad file that anndata 0.6 would."""
    with h5py.File(path, "w") as file:
        for key in ("X", "raw.X") if raw else ("X",):
            values = adata.X if key == "raw.X" or not raw else np.log1p(adata.X)
            if dense:
                file[key] = values.toarray()
                continue
            group = file.create_group(key)
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", values.shape
            group["data"], group["indices"], group["indptr"] = values.data, values.indices, values.indptr
        obs = np.zeros(adata.n_obs, [("index", "S10"), ("cell_type", "i1"), ("age", "f4"), ("plate", "S3")])
        obs["index"], obs["cell_type"] = adata.obs_names.to_numpy("S10"), adata.obs["cell_type"].cat.codes
        obs["age"], obs["plate"] = adata.obs["age"], b"p1"
        var = np.zeros(adata.n_vars, [("index", "S10")])
        var["index"] = adata.var_names.to_numpy("S10")
        file["obs"], file["var"] = obs, var
        if raw:
            file["raw.var"] = var
        file.create_group("uns")["cell_type_categories"] = adata.obs["cell_type"].cat.categories.to_numpy("S")


@pytest.mark.parametrize("dense", [False, True])
def test_a_file_of_anndata_before_07(tmp_path, dense):
    adata = small_adata()
    write_old(tmp_path / "old.h5ad", adata, dense=dense)
    out, card = ingested(tmp_path, tmp_path / "old.h5ad", labels=["cell_type"])
    assert same_counts(out, adata)
    assert (out.obs["cell_type"].astype(str) == adata.obs["cell_type"][out.obs_names].astype(str)).all()
    assert set(out.obs["plate"]) == {"p1"}
    assert card["sources"][0]["counts"] == "X"
    atlas = open_atlas(tmp_path / "old.h5ad")
    assert atlas.categories("cell_type") == list(adata.obs["cell_type"].cat.categories)
    assert list(atlas.genes) == list(adata.var_names)
    assert (np.asarray(atlas.read(np.arange(60)).to_dense("cpu")) == adata.X.toarray()).all()


def test_raw_of_a_file_before_07(tmp_path):
    adata = small_adata()
    write_old(tmp_path / "old.h5ad", adata, raw=True)
    out, card = ingested(tmp_path, tmp_path / "old.h5ad")
    assert card["sources"][0]["counts"] == "raw.X"
    assert same_counts(out, adata)
    expected = ad.read_h5ad(tmp_path / "old.h5ad").raw.X
    assert (expected.toarray() == adata.X.toarray()).all()


def test_a_renewed_file_is_like_a_file(tmp_path):
    write_old(tmp_path / "old.h5ad", small_adata(), raw=True)
    with h5py.File(tmp_path / "old.h5ad") as file:
        root = Renewed(file)
        assert {"X", "obs", "var", "raw", "uns"} <= set(root.keys())
        assert root["obs/cell_type"].attrs["encoding-type"] == "categorical"
        assert root["X"].attrs["encoding-type"] == "csr_matrix"
        assert "layers" not in root
        assert root.get("layers") is None
        assert "obs/none" not in root


def test_an_old_file_that_is_cut_short(tmp_path):
    write_old(tmp_path / "old.h5ad", small_adata(400))
    content = (tmp_path / "old.h5ad").read_bytes()
    (tmp_path / "old.h5ad").write_bytes(content[: len(content) // 2])
    assert "damaged or cut short" in refused(tmp_path, tmp_path / "old.h5ad")
