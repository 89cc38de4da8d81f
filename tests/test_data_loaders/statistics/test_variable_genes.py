"""Variable genes: scanpy's where scanpy finds any, and what is done where it fails."""

import logging

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from store_data import cells, genes, write_anndata

from cfgen_dist.evaluation.spaces.log_normalised import choose_genes, in_memory
from data_loaders import ingest, open_atlas, simulate
from data_loaders.statistics.variable_genes import NO_TREND, ClippedSums, clip_at, expected_variance, variable_genes


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = tmp_path_factory.mktemp("genes") / "atlas.zarr"
    simulate(path, cells=3_000, genes=300, types=5, density=0.25, seed=2)
    return open_atlas(path)


def few_cells(folder, n_cells=20, n_genes=3_000):
    """Cells so few and sparse that most genes share one of three means."""
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.1, (n_cells, n_genes)))
    return write_anndata(folder / "few.zarr", counts, obs=cells(n_cells), var=genes(n_genes))


def most_varying(counts, n):
    """Genes of largest variance after scanpy's log-normalising."""
    adata = ad.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return np.sort(np.argsort(-adata.X.toarray().var(0), kind="stable")[:n])


def seurat_v3(counts, n):
    table = sc.pp.highly_variable_genes(
        ad.AnnData(counts.astype(np.float32)), flavor="seurat_v3", n_top_genes=n, inplace=False
    )
    return np.flatnonzero(table["highly_variable"])


def test_they_are_those_of_scanpy(atlas, caplog):
    rows = np.arange(100, 2_100)
    np.testing.assert_array_equal(variable_genes(atlas, 60, rows), seurat_v3(atlas.read(rows).to_scipy(), 60))
    assert NO_TREND not in caplog.messages


def test_where_scanpy_fails_those_of_log_normalised_counts(tmp_path, caplog):
    atlas = open_atlas(few_cells(tmp_path))
    counts = atlas.read(np.arange(20)).to_scipy()
    with pytest.raises(ValueError):
        seurat_v3(counts, 500)
    with caplog.at_level(logging.WARNING, "data_loaders"):
        found = variable_genes(atlas, 500)
    assert caplog.messages == [NO_TREND]
    chosen, expected = np.zeros((2, 3_000), bool)
    chosen[found], expected[most_varying(counts, 500)] = True, True
    assert len(found) == 500
    assert (chosen != expected).sum() <= 2  # a tie at the last place


def test_ingest_says_what_it_did_instead(tmp_path, caplog):
    source = few_cells(tmp_path)
    counts = open_atlas(source).read(np.arange(20)).to_scipy()
    with caplog.at_level(logging.WARNING, "data_loaders"):
        card = ingest(source, tmp_path / "out.zarr", genes="hvg:500", min_cells=2, drop_empty=True)
    assert card["n_genes"] == 500
    assert card["notes"][-1] == NO_TREND
    assert NO_TREND in caplog.messages
    out = ad.read_zarr(tmp_path / "out.zarr")
    columns = np.array([int(name.removeprefix("gene")) for name in out.var_names])
    chosen_by = (out.obs["split"] != "test").to_numpy()
    counts = counts[out.obs["source_row"].to_numpy()[chosen_by]]
    common = np.flatnonzero(counts.getnnz(axis=0) >= 2)
    adata = ad.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    variance = adata.X.toarray().var(0)
    assert set(columns) <= set(common)
    assert variance[columns].min() >= np.sort(variance[common])[-500] - 1e-9
    assert (np.diff(columns) > 0).all()


def rare_genes(rng):
    """300 cells, 1,200 genes: most in so few cells that many share one score, wherever the choice ends."""
    counts = rng.poisson(np.exp(rng.normal(-2.5, 1.5, 1_200)), (300, 1_200))
    counts[:, 7] = 3  # genes that do not vary
    counts[:, 8] = 0
    return sparse.csr_matrix(counts)


def repeated_genes(rng):
    """Every gene five times, so that all scores are tied."""
    counts = rng.negative_binomial(0.5, 0.5 / (0.5 + np.exp(rng.normal(-1, 1.5, 120))), (150, 120))
    return sparse.csr_matrix(np.tile(counts, 5))


def constant_genes(rng):
    """Half of the genes are the same in all cells, zero or not, and more genes are asked for than vary."""
    counts = rng.poisson(np.exp(rng.normal(0, 1.5, 400)), (80, 400))
    constant = rng.random(400) < 0.5
    counts[:, constant] = rng.integers(0, 4, constant.sum())
    return sparse.csr_matrix(counts)


def two_cells(rng):
    return sparse.csr_matrix(rng.negative_binomial(0.3, 0.3 / (0.3 + np.exp(rng.normal(2, 2, 300))), (2, 300)))


def heavy_tails(rng):
    """Counts far above the bound, many of the same genes."""
    counts = rng.poisson(np.exp(rng.normal(-2, 1.5, 500)), (200, 500))
    counts[rng.integers(0, 200, 300), rng.integers(0, 500, 300)] += rng.integers(5, 2_000, 300)
    return sparse.csr_matrix(counts)


@pytest.mark.parametrize("make", [rare_genes, repeated_genes, constant_genes, two_cells, heavy_tails])
@pytest.mark.parametrize("seed", range(3))
def test_they_are_scanpys_to_the_last_tie(make, seed):
    counts = make(np.random.default_rng(seed))
    n_genes = counts.shape[1]
    worked = 0
    for n in np.unique(np.geomspace(2, n_genes - 1, 12).astype(int)):
        try:
            expected = seurat_v3(counts, n)
        except ValueError:
            continue
        worked += 1
        np.testing.assert_array_equal(choose_genes(n_genes, in_memory(counts), n), expected)
    assert worked or make is two_cells


def test_sums_do_not_depend_on_how_the_cells_are_divided():
    """So the genes chosen in shards, or by more threads, are the same, ties and all."""
    counts = heavy_tails(np.random.default_rng(0))
    clip = clip_at(np.asarray(counts.mean(0)).ravel(), np.ones(500), 200)
    whole, parts = ClippedSums(clip), ClippedSums(clip)
    whole.add(counts)
    for rows in np.array_split(np.random.default_rng(1).permutation(200), 7):
        part = ClippedSums(clip)
        part.add(counts[rows])
        parts.merge(part)
    assert whole.above.sum() > 100
    for ours, other in zip(whole.clipped(), parts.clipped(), strict=True):
        np.testing.assert_array_equal(ours, other)
    dense = np.minimum(counts.toarray(), clip)
    np.testing.assert_allclose(whole.clipped()[0], dense.sum(0))
    np.testing.assert_allclose(whole.clipped()[1], (dense**2).sum(0))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_so_few_genes_that_the_fit_would_crash(n):
    """With fewer than four genes that vary the fit of scanpy ends the process."""
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (30, 6)) * (np.arange(6) < n))
    np.testing.assert_array_equal(choose_genes(6, in_memory(counts), 2), most_varying(counts, 2))


@pytest.mark.parametrize("means", [1, 2])
def test_too_few_distinct_means_are_not_fitted(means):
    mean = np.repeat(np.arange(1.0, means + 1), 100)
    with pytest.raises(ValueError, match="than a parabola needs"):
        expected_variance(mean, mean)


def test_genes_that_do_not_vary(tmp_path):
    counts = sparse.csr_matrix(np.ones((5, 12)))
    atlas = open_atlas(write_anndata(tmp_path / "a.zarr", counts, obs=cells(5), var=genes(12)))
    assert variable_genes(atlas, 3).tolist() == [0, 1, 2]
