"""Preprocessing and principal components against scanpy and scikit-learn."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import PCA

from cfgen_dist.evaluation.spaces.log_normalised import LogCovariance, Space, choose_genes, components, in_memory
from data_loaders.statistics.normalisation import log_normalise


def variable_genes(counts, limit):
    return choose_genes(counts.shape[1], in_memory(counts), limit)


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(0)
    depth = rng.gamma(4, 1, (300, 1))
    return sparse.csr_matrix(rng.poisson(depth * np.exp(rng.normal(-2, 1.5, 2500)))).astype(np.int32)


def test_log_normalise_is_scanpys(counts):
    cells = ad.AnnData(counts.astype(np.float64))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    np.testing.assert_allclose(log_normalise(counts).toarray(), cells.X.toarray(), rtol=1e-12)
    genes = np.array([3, 7, 2000])
    np.testing.assert_allclose(log_normalise(counts, genes).toarray(), cells.X.toarray()[:, genes], rtol=1e-12)


def test_log_normalise_leaves_its_input_and_empty_cells_alone():
    counts = sparse.csr_matrix(np.array([[0, 0], [1, 3]]))
    assert log_normalise(counts).toarray().tolist()[0] == [0, 0]
    assert counts.toarray().tolist() == [[0, 0], [1, 3]]


def test_variable_genes_are_scanpys(counts):
    cells = ad.AnnData(counts.astype(np.float32))
    sc.pp.highly_variable_genes(cells, flavor="seurat_v3", n_top_genes=500)
    assert variable_genes(counts, 500).tolist() == np.flatnonzero(cells.var["highly_variable"]).tolist()
    assert variable_genes(counts, 2500).tolist() == list(range(2500))


@pytest.mark.parametrize("cells", [2, 5, 10])
def test_variable_genes_of_too_few_cells_for_the_loess_fit(cells):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.2, (cells, 2500)))
    with pytest.raises(ValueError):  # what scanpy does with them; it may also crash the process when repeated
        sc.pp.highly_variable_genes(
            ad.AnnData(counts.astype(np.float32)), flavor="seurat_v3", n_top_genes=100, inplace=False
        )
    genes = variable_genes(counts, 100)
    assert len(genes) == 100
    assert (np.diff(genes) > 0).all()
    varies = np.asarray(counts.sum(axis=0)).ravel() > 0
    assert varies[genes].all()


def test_components_are_those_of_a_pca(counts):
    space = Space.fit(counts, 500, 10)
    values = log_normalise(counts, space.genes).toarray()
    pca = PCA(10, svd_solver="full").fit(values)
    expected = pca.transform(values)
    found = space.project(counts)
    signs = np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-8)


def test_uncentred_projection_is_shifted_by_the_projected_mean(counts):
    space = Space.fit(counts, 500, 10)
    shift = space.project(counts, centred=False) - space.project(counts)
    np.testing.assert_allclose(shift, np.broadcast_to(space.mean @ space.loadings, shift.shape), atol=1e-9)
    assert np.linalg.norm(shift[0]) > 1


def test_components_of_merged_shards_are_those_of_the_whole(counts):
    whole = Space.fit(counts, 500)
    merged = LogCovariance(whole.genes)
    for rows in np.array_split(np.arange(counts.shape[0]), 7):
        shard = LogCovariance(whole.genes)
        shard.add(counts[rows])
        merged.merge(shard)
    space = components(merged, whole.genes)
    np.testing.assert_allclose(space.project(counts), whole.project(counts), atol=1e-8)


def test_fewer_cells_than_components(counts):
    assert Space.fit(counts[:5]).project(counts).shape == (300, 4)
    assert Space.fit(counts[:5]).project(counts[:0]).shape == (0, 4)
