"""An h5ad in the form of the CELLxGENE portal's, as that of HLCA: normalised X, counts in raw, Ensembl names."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from small_data import small_adata

from cfgen_dist.cli import main
from data_loaders import open_atlas


@pytest.fixture
def portal(tmp_path):
    """(path, counts): 60 cells, 25 genes."""
    adata = small_adata()
    counts = adata.X.copy().astype(np.float32)
    names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    genes = pd.DataFrame({"feature_name": "GENE", "feature_biotype": "gene", "feature_length": 500}, index=names)
    whole = ad.AnnData(counts, adata.obs[[]], genes)
    n = adata.n_obs
    whole.obs["cell_type"] = pd.Categorical(np.array(["club cell", "alveolar macrophage"])[np.arange(n) % 2])
    whole.obs["ann_finest_level"] = pd.Categorical(np.array(["Club (nasal)", "Alveolar Mph"])[np.arange(n) % 2])
    whole.obs["donor_id"] = pd.Categorical([f"donor {i % 6}" for i in range(n)])
    whole.obs["is_primary_data"] = np.arange(n) % 3 != 0
    whole.raw = whole
    depth = np.asarray(counts.sum(1)).ravel()
    whole.X = counts.multiply(1e4 / np.maximum(depth, 1)[:, None]).log1p().tocsr().astype(np.float32)
    whole.write_h5ad(tmp_path / "hlca.h5ad")
    return tmp_path / "hlca.h5ad", counts


def test_counts_of_raw_labels_and_copies_that_stay(portal, tmp_path, capsys):
    path, counts = portal
    words = ["--labels", "cell_type,donor_id", "--holdout", "donor_id=0.2", "--min-cells", "0", "--keep-order"]
    assert main(["ingest", str(path), str(tmp_path / "hlca.zarr"), *words]) == 0
    out = capsys.readouterr().out
    assert "counts from raw.X" in out
    assert "20 of 60 cells are marked is_primary_data False" in out
    assert "--drop-copies leaves them out" in out
    atlas = open_atlas(tmp_path / "hlca.zarr")
    assert (atlas.n_cells, atlas.genes[0]) == (60, "ENSG00000000000")
    np.testing.assert_array_equal(atlas.read(np.arange(60)).to_scipy().toarray(), counts.toarray())
    held_out = set(np.asarray(atlas.obs("donor_id"))[atlas.rows("test")])
    assert held_out.isdisjoint(np.asarray(atlas.obs("donor_id"))[atlas.rows("train")])
