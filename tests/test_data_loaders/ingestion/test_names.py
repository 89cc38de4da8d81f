"""Numbers and names that a store cannot have."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from small_data import small_adata

from data_loaders import AtlasWriter, BadInput, ingest, open_atlas
from data_loaders.names import is_storable

NAMES = (".", "..", "zarr.json", "a/b", "_index", ".zgroup", "x" * 250)


def test_obs_columns_of_names_that_a_store_cannot_have(tmp_path):
    data = small_adata()
    data.write_h5ad(tmp_path / "a.h5ad")
    columns = {name: ["x", "y", "z"] * 20 for name in (*NAMES, "c", "codes", "a b", "ü")}
    pd.DataFrame(columns, index=data.obs_names).to_csv(tmp_path / "t.csv")
    card = ingest(
        tmp_path / "a.h5ad", tmp_path / "a.zarr", labels=["cell_type"], obs_files=tmp_path / "t.csv", min_cells=0
    )
    (note,) = [note for note in card["notes"] if "left out" in note]
    columns = open_atlas(tmp_path / "a.zarr").obs_columns
    for name in NAMES:
        assert repr(name) in note
        assert name not in columns
    assert {"c", "codes", "a b", "ü"} <= set(columns)
    assert list(ad.read_zarr(tmp_path / "a.zarr").obs["ü"].astype(str).unique())
    for name in NAMES[:4]:
        with pytest.raises(BadInput, match="this name cannot be a label column; rename it"):
            ingest(tmp_path / "a.h5ad", tmp_path / "b.zarr", labels=[name], obs_files=tmp_path / "t.csv")
    assert not is_storable("")


def test_columns_of_var_of_names_that_a_store_cannot_have(tmp_path):
    data = small_adata()
    for name in (*NAMES[1:3], *NAMES[5:], "fine"):  # anndata writes no others
        data.var[name] = range(data.n_vars)
    data.write_h5ad(tmp_path / "a.h5ad")
    ingest(tmp_path / "a.h5ad", tmp_path / "a.zarr", labels=["cell_type"], min_cells=0)
    columns = open_atlas(tmp_path / "a.zarr").var.columns
    assert "fine" in columns
    assert not set(NAMES) & set(columns)


def test_a_writer_refuses_counts_above_2_31(tmp_path):
    counts = csr_matrix(np.array([[2**31]], np.uint32))
    writer = AtlasWriter(tmp_path / "a.zarr", pd.DataFrame(index=["g"]))
    with pytest.raises(ValueError, match="counts go up to 2,147,483,647, what every reader holds; found 2,147,483,648"):
        writer.append(counts, pd.DataFrame(index=["c"]))
    writer.discard()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_counts_above_2_31_are_refused(tmp_path, kind):
    data = small_adata()
    data.X = data.X.astype(kind)
    data.X.data[0] = 2.0**31
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(BadInput, match=r"values above 2147483647 \(largest 2\.147e\+09\), the first in cell"):
        ingest(tmp_path / "a.h5ad", tmp_path / "a.zarr", labels=["cell_type"], min_cells=0)
    data.X = data.X.astype("float64")
    data.X.data[0] = 2.0**31 - 1
    data.write_h5ad(tmp_path / "b.h5ad")
    ingest(tmp_path / "b.h5ad", tmp_path / "b.zarr", labels=["cell_type"], min_cells=0)
    assert open_atlas(tmp_path / "b.zarr").read([0, 1, 2, *range(3, 60)]).to_scipy().max() == 2**31 - 1
