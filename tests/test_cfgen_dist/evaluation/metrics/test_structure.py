"""Structure metrics: at the floor for real cells, far from it for cells without gene-gene structure."""

from collections import Counter
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
from evaluation_data import of_split, with_split
from scipy import sparse

from cfgen_dist.evaluation import Reference, independent_genes, matched_rows
from cfgen_dist.evaluation.metrics.structure import correlation_error, linear_auc, manifold_overlap, two_sample_auc

pytestmark = pytest.mark.heavy


def cells(counts, labels):
    """What of a `CellSet` the correlations need."""
    return SimpleNamespace(codes=labels, read=counts.__getitem__)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def correlated_counts(n, seed, strength=1.0, genes=60):
    """Poisson counts of genes driven by three programmes."""
    loadings = np.random.default_rng(99).normal(0, 0.5, (3, genes))
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(np.exp(1 + strength * rng.normal(size=(n, 3)) @ loadings)))


def test_correlation_error_is_zero_for_fresh_cells_and_one_for_independent_genes(rng):
    real, labels = correlated_counts(400, 1), np.repeat(["a", "b"], 200)
    fresh = correlated_counts(400, 2)
    independent, names = independent_genes(real, labels, {"a": 200, "b": 200}, rng)
    assert correlation_error(cells(real, labels), cells(fresh, labels), rng) == pytest.approx(0, abs=0.05)
    # Scaling each cell to one depth leaves weak correlations between any genes, hence not exactly one.
    assert correlation_error(cells(real, labels), cells(independent, names), rng) == pytest.approx(1, abs=0.1)


def test_correlation_error_is_in_between_for_structure_of_half_the_strength(rng):
    real, labels = correlated_counts(400, 1), np.repeat("a", 400)
    weak = correlated_counts(400, 2, strength=0.5)
    assert 0.1 < correlation_error(cells(real, labels), cells(weak, labels), rng) < 0.9


def test_correlation_error_needs_cells(rng):
    real, labels = correlated_counts(60, 1), np.repeat(["a", "b"], 30)
    assert np.isnan(correlation_error(cells(real, labels), cells(real, labels), rng))


def test_classifier_sees_a_shift_and_nothing_else(rng):
    values = rng.normal(size=(300, 5))
    truth = np.repeat([False, True], 150)
    assert two_sample_auc(values, truth, 0) == pytest.approx(0.5, abs=0.1)
    assert two_sample_auc(values + 4 * truth[:, None], truth, 0) > 0.99


def test_classifier_sees_what_a_linear_one_cannot(rng):
    correlated = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 300)
    independent = rng.normal(size=(300, 2))
    truth = np.repeat([False, True], 300)
    assert two_sample_auc(np.concatenate([correlated, independent]), truth, 0) > 0.7


def test_the_linear_classifier_adds_up_what_is_slightly_wrong_in_many_genes(rng):
    values, truth = rng.normal(size=(600, 1000)), np.repeat([False, True], 300)
    assert linear_auc(sparse.csr_matrix(values), truth, 0) == pytest.approx(0.5, abs=0.08)
    shifted = values + 0.1 * truth[:, None]
    assert linear_auc(sparse.csr_matrix(shifted), truth, 0) > 0.85
    assert linear_auc(sparse.csr_matrix(shifted * np.geomspace(0.01, 100, 1000)), truth, 0) > 0.85, "in any unit"
    assert two_sample_auc(shifted, truth, 0) < 0.8


def test_classifiers_need_cells():
    truth = np.array([False] * 4 + [True] * 2)
    assert np.isnan(two_sample_auc(np.zeros((6, 2)), truth, 0))
    assert np.isnan(linear_auc(sparse.csr_matrix((6, 2)), truth, 0))


def test_manifolds_by_their_definition(rng):
    real, made = rng.normal(size=(40, 3)), rng.normal(0.5, 1.5, size=(30, 3))

    def ball(cells, i):
        return np.sort(np.linalg.norm(cells - cells[i], axis=1))[5]  # the first is the cell itself

    inside = np.array([[np.linalg.norm(r - m) < ball(real, i) for m in made] for i, r in enumerate(real)])
    around = np.array([[np.linalg.norm(r - m) < ball(made, j) for j, m in enumerate(made)] for r in real])
    assert manifold_overlap(real, made) == pytest.approx(
        {
            "precision": inside.any(axis=0).mean(),
            "recall": around.any(axis=1).mean(),
            "density": inside.sum() / 5 / len(made),
            "coverage": inside.any(axis=1).mean(),
        }
    )


def test_manifolds_far_apart_and_alike(rng):
    real = rng.normal(size=(300, 4))
    assert set(manifold_overlap(real, real + 100).values()) == {0.0}
    alike = manifold_overlap(real, rng.normal(size=(300, 4)))
    assert alike["precision"] == pytest.approx(alike["recall"], abs=0.08)
    assert alike["density"] == pytest.approx(1, abs=0.15)
    assert alike["coverage"] > 0.9


def test_manifolds_need_cells():
    assert all(np.isnan(value) for value in manifold_overlap(np.zeros((5, 2)), np.zeros((9, 2))).values())


@pytest.mark.parametrize("name", ["pbmc3k", "baron_pancreas_h1"])
def test_real_cells_are_told_from_cells_without_structure(real_data, name):
    """What the distances in principal components miss, measured on real cells."""
    data = ad.read_h5ad(real_data / f"{name}.h5ad")
    data = data[data.obs["cell_type"].isin(data.obs["cell_type"].value_counts().loc[lambda n: n >= 10].index)]
    data = with_split(data[:, np.asarray((data.X > 0).sum(axis=0)).ravel() >= 30].copy())
    (test, labels), (train, train_labels) = (of_split(data, split) for split in ("test", "train"))
    reference = Reference.fit(test, labels)
    wanted = Counter(labels.tolist())
    rows = matched_rows(train_labels, wanted, 1, np.random.default_rng(0))[0]
    floor = reference.score(train[rows], train_labels[rows])
    control = reference.score(*independent_genes(train, train_labels, wanted, np.random.default_rng(0)))

    for space in ("auc_genes", "auc_pcs"):
        assert floor[space] == pytest.approx(0.5, abs=0.08)
    assert min(control["auc_genes"], control["auc_pcs"]) > 0.6
    assert max(control["auc_genes"], control["auc_pcs"]) > 0.72
    assert abs(floor["correlation_error"]) < 0.25
    assert control["correlation_error"] > 0.8
    assert floor["recall"] - control["recall"] > 0.1
    assert floor["precision"] == pytest.approx(floor["recall"], abs=0.1)
    assert control["w2"] < 1.1 * floor["w2"]  # the distance alone sees next to nothing
    assert control["knn_f1"] > floor["knn_f1"] - 0.05
