"""Principal components and variable genes out of core, against scikit-learn and scanpy."""

import shutil

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from sklearn.decomposition import PCA
from store_data import cells, genes, random_counts, write_anndata

from data_loaders import BadInput, open_atlas, simulate
from data_loaders.statistics import pca, sums
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.statistics.pca import CovarianceSums
from data_loaders.statistics.variable_genes import variable_genes


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = tmp_path_factory.mktemp("pca") / "atlas.zarr"
    simulate(path, cells=3_000, genes=300, types=5, density=0.25, seed=2)
    return open_atlas(path)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks and parts, although the data are small."""
    monkeypatch.setattr(pca, "BLOCK", 500)
    monkeypatch.setattr(sums, "BLOCK", 500)
    monkeypatch.setattr(sums, "PARTS", 3)


def normalised(atlas, rows=None):
    """What scanpy makes of the counts, dense float64."""
    adata = ad.AnnData(atlas.read(np.arange(atlas.n_cells) if rows is None else rows).to_scipy().astype(np.float64))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata.X.toarray()


def exact(values, n_pcs):
    return PCA(n_pcs, svd_solver="full").fit(values)


def angles(found, expected):
    """Cosine of the angle between each component and the one expected."""
    return np.abs((found.loadings * expected.components_.T).sum(0))


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense products", "sparse products"])
def test_few_genes_are_exact(monkeypatch, atlas, share):
    monkeypatch.setattr(pca, "SPARSE_SHARE", share)
    found, values = pca.pca(atlas, 20), normalised(atlas)
    expected = exact(values, 20)
    np.testing.assert_allclose(found.mean, values.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(found.variance_ratio, expected.explained_variance_ratio_, rtol=1e-10)
    assert angles(found, expected)[:10].min() > 1 - 1e-9
    strongest = np.abs(found.loadings).argmax(axis=0)
    assert (found.loadings[strongest, np.arange(20)] > 0).all()
    counts = atlas.read(np.arange(1_200))
    expected_at = expected.transform(values[:1_200])[:, :5]
    np.testing.assert_allclose(np.abs(found.project(counts)[:, :5]), np.abs(expected_at), atol=1e-6)
    uncentred = found.project(counts.to_scipy(), centred=False)
    np.testing.assert_allclose(uncentred, values[:1_200] @ found.loadings, atol=1e-9)


def test_many_genes_by_iteration(monkeypatch, atlas):
    monkeypatch.setattr(pca, "COVARIANCE_GENES", 100)
    found, expected = pca.pca(atlas, 12, seed=4), exact(normalised(atlas), 12)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-3)
    np.testing.assert_allclose(found.variance[:5], expected.explained_variance_[:5], rtol=1e-7)
    assert angles(found, expected)[:5].min() > 1 - 1e-6
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(12), atol=1e-10)
    np.testing.assert_allclose(found.total_variance, normalised(atlas).var(0, ddof=1).sum(), rtol=1e-10)
    np.testing.assert_array_equal(found.loadings, pca.pca(atlas, 12, seed=4).loadings)


def test_few_cells_by_iteration(monkeypatch, atlas):
    """Fewer cells than vectors: their space is exhausted, and what rounding adds to it must not count."""
    monkeypatch.setattr(pca, "COVARIANCE_GENES", 100)
    rows = np.arange(60)
    found, expected = pca.pca(atlas, 12, rows=rows), exact(normalised(atlas, rows), 12)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-9)
    assert angles(found, expected).min() > 1 - 1e-9


def test_chosen_cells_and_genes(atlas):
    rows = atlas.rows("train")[::-1]
    found = pca.pca(atlas, 5, genes=100, rows=rows)
    np.testing.assert_array_equal(found.genes, variable_genes(atlas, 100, rows))
    expected = exact(normalised(atlas, rows)[:, found.genes], 5)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-10)
    names = [str(atlas.genes[i]) for i in (200, 3, 77)]
    named = pca.pca(atlas, 2, genes=names)
    np.testing.assert_array_equal(named.genes, [200, 3, 77])
    values = normalised(atlas)[:, [200, 3, 77]]
    np.testing.assert_allclose(named.variance, exact(values, 2).explained_variance_, rtol=1e-10)


def test_sums_merge(atlas):
    counts = atlas.read(np.arange(900)).to_scipy()
    whole, parts = CovarianceSums(300), CovarianceSums(300)
    whole.add(log_normalise(counts).toarray())
    for start in (0, 200, 450):
        part = CovarianceSums(300)
        part.add(log_normalise(counts[start : {0: 200, 200: 450, 450: 900}[start]]))
        parts.merge(part)
    assert parts.n_cells == 900
    np.testing.assert_allclose(parts.covariance(), whole.covariance(), atol=1e-12)
    np.testing.assert_allclose(whole.covariance(), np.cov(log_normalise(counts).toarray().T), atol=1e-12)


def test_variable_genes_of_few_cells(atlas):
    """Too few for Seurat's trend: pca takes the genes that vary most after log-normalising."""
    rows = np.arange(6)
    found = pca.pca(atlas, 2, genes=50, rows=rows)
    np.testing.assert_array_equal(found.genes, np.sort(np.argsort(-normalised(atlas, rows).var(0), kind="stable")[:50]))


def test_an_empty_cell_stays_zero(atlas):
    counts = atlas.read(np.arange(5)).to_scipy()
    counts.data[counts.indptr[1] : counts.indptr[2]] = 0
    values = log_normalise(counts, np.array([4, 2]))
    assert values.shape == (5, 2)
    assert not values[1].toarray().any()
    np.testing.assert_allclose(np.expm1(log_normalise(counts).toarray()).sum(1)[[0, 2]], 1e4)


def test_what_is_refused(tmp_path, atlas):
    for options, message in (
        ({"n_pcs": 0}, "0 components of 3,000 cells and 300 genes; expected 1 to 300"),
        ({"n_pcs": 301}, "301 components of 3,000 cells and 300 genes; expected 1 to 300"),
        ({"n_pcs": 20, "rows": np.arange(20)}, "20 components of 20 cells and 300 genes; expected 1 to 19"),
        ({"rows": np.arange(0)}, "no cells selected; expected some"),
        ({"rows": np.array([0, 1, 2, 3_000])}, "has rows 0 to 2999"),
        ({"genes": ["gene_0007"]}, "no gene 'gene_0007'; did you mean 'gene_00"),
        ({"genes": 301}, "301 variable genes asked for; expected 1 to 300"),
    ):
        with pytest.raises(BadInput) as caught:
            pca.pca(atlas, **({"n_pcs": 2} | options))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    dense = write_anndata(tmp_path / "a.zarr", random_counts(50, 20).toarray(), obs=cells(50), var=genes(20))
    with pytest.raises(BadInput, match="its rna is dense; expected sparse counts"):
        pca.pca(open_atlas(dense), 2)


def test_a_damaged_chunk_is_named(tmp_path, atlas):
    shutil.copytree(atlas.name, tmp_path / "a.zarr")
    largest = max((tmp_path / "a.zarr" / "X" / "data").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 3] ^= 255
    largest.write_bytes(content)
    for function in (pca.pca, variable_genes):
        with pytest.raises(BadInput, match=r"a\.zarr: X/data: chunk \d+ has a wrong checksum"):
            function(open_atlas(tmp_path / "a.zarr"), 3)


@pytest.mark.heavy
def test_real_counts(real_data, monkeypatch):
    monkeypatch.setattr(sums, "BLOCK", 2048)
    atlas = open_atlas(real_data / "pbmc3k.h5ad")
    adata = ad.AnnData(atlas.read(np.arange(atlas.n_cells)).to_scipy().astype(np.float32))
    table = sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=2000, inplace=False)
    found = pca.pca(atlas, 30, genes=2000)
    np.testing.assert_array_equal(found.genes, np.flatnonzero(table["highly_variable"]))
    values = normalised(atlas)[:, found.genes]
    sparse_pca = PCA(30, svd_solver="covariance_eigh").fit(values)
    np.testing.assert_allclose(found.variance, sparse_pca.explained_variance_, rtol=1e-9)
    assert angles(found, sparse_pca).min() > 1 - 1e-6
