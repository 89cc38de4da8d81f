"""Copies of cells are counted, said, and left out on request."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from ingest_helpers import ingested
from small_data import same_counts

from cfgen_dist.cli import main
from data_loaders import ingest


def cells(n, seed, first=0, scale=2.0):
    counts = np.random.default_rng(seed).poisson(scale, (n, 40)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": ["T", "B"] * (n // 2)}, index=[f"c{i}" for i in range(first, first + n)])
    return ad.AnnData(sp.csr_matrix(counts), obs, pd.DataFrame(index=[f"g{i}" for i in range(40)]))


@pytest.fixture
def two_files(tmp_path):
    """A file of 100 cells and one of 80, 30 of them cells of the first under other names."""
    a, b = cells(100, 0), cells(80, 1, 500)
    b.X = sp.vstack([a.X[10:40], b.X[30:]]).tocsr()
    a.write_h5ad(tmp_path / "a.h5ad")
    b.X = sp.csc_matrix(b.X)  # read in pieces: columns, in another order
    b = b[:, ::-1].copy()
    b.write_h5ad(tmp_path / "b.h5ad")
    return [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], a, b


def test_equal_cells_of_two_sources(tmp_path, two_files, small_pieces):
    sources, a, _ = two_files
    card = ingest(sources, tmp_path / "all.zarr", min_cells=0)
    assert card["n_cells"] == 180
    found = "30 of 180 cells have exactly the counts of an earlier cell, 30 of them one of an earlier source"
    assert f"{found}; `drop_copies=True` leaves them out" in card["notes"]
    out, card = ingested(tmp_path, sources, drop_copies=True)
    assert out.n_obs == card["n_cells"] == 150
    assert card["dropped"]["cells_equal_to_others"] == 30
    assert set(a.obs_names) < set(out.obs_names), "of equal cells the first is kept"
    assert same_counts(out[a.obs_names], a)


def test_marked_copies(tmp_path, capsys):
    adata = cells(200, 0)
    adata.X = sp.vstack([adata.X[:150], adata.X[:50]]).tocsr()
    adata.obs["is_primary_data"] = np.arange(200) < 150
    for number, values in enumerate([adata.obs["is_primary_data"], adata.obs["is_primary_data"].astype(str)]):
        adata.obs["is_primary_data"] = values  # as text too
        source, folder = tmp_path / f"{number}.h5ad", tmp_path / str(number)
        adata.write_h5ad(source)
        folder.mkdir()
        out, card = ingested(folder, source, drop_copies=True, keep_order=True)
        assert list(out.obs_names) == [f"c{i}" for i in range(150)]
        assert (card["dropped"]["cells_marked_as_copies"], card["dropped"]["cells_equal_to_others"]) == (50, 0)
    assert main(["ingest", str(source), str(tmp_path / "b.zarr"), "--min-cells", "1"]) == 0
    printed = capsys.readouterr().out
    assert (
        "50 of 200 cells are marked is_primary_data False: copies of cells of other data sets; --drop-copies" in printed
    )
    assert "50 of 200 cells have exactly the counts of an earlier cell; --drop-copies leaves them out" in printed


def test_cells_with_few_counts_may_be_equal(tmp_path):
    cells(200, 0, scale=0.02).write_h5ad(tmp_path / "a.h5ad")
    out, card = ingested(tmp_path, tmp_path / "a.h5ad", drop_copies=True, drop_empty=True)
    assert out.n_obs > 40
    assert not any("exactly" in note for note in card["notes"])


def test_multimodal_cells_left_out_of_rna_are_left_out_of_all(tmp_path):
    rna, atac = cells(60, 0), cells(60, 1)
    rna.obs["is_primary_data"] = np.arange(60) >= 10
    rna.write_h5ad(tmp_path / "rna.h5ad")
    atac.write_h5ad(tmp_path / "atac.h5ad")
    sources = {"rna": tmp_path / "rna.h5ad", "atac": tmp_path / "atac.h5ad"}
    out, _ = ingested(tmp_path, sources, drop_copies=True, keep_order=True)
    assert list(out.obs_names) == [f"c{i}" for i in range(10, 60)]
    np.testing.assert_array_equal(out.obsm["atac"].toarray(), atac.X[10:].toarray())
