"""Profiles of counts and the metrics that compare them."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import wasserstein_distance

from cfgen_dist.evaluation.metrics import faithfulness as metrics
from cfgen_dist.evaluation.metrics.faithfulness import Profile, trend, trend_edges

NAMES = ("zeros", "zeros_per_cell", "dropout", "mean_variance", "size_factor")


def faithfulness(real, generated):
    """All metrics of two profiles."""
    return {name: getattr(metrics, name)(real, generated) for name in NAMES}


def negative_binomial(n, genes, dispersion, seed=0, depth=1.0):
    rng = np.random.default_rng(seed)
    mean = depth * np.exp(np.random.default_rng(99).normal(0, 1, genes))
    return sparse.csr_matrix(rng.poisson(rng.gamma(1 / dispersion, mean * dispersion, (n, genes))))


def test_profile_is_plain_arithmetic():
    counts = np.array([[0, 2, 1], [0, 0, 5]])
    profile = Profile.of(sparse.csr_matrix(counts))
    assert profile.zeros == pytest.approx(3 / 6)
    assert profile.zeros_per_cell[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert profile.zeros_per_cell[1].tolist() == [1, 1]
    assert profile.dropout.tolist() == [1, 0.5, 0]
    assert profile.totals.tolist() == [[3, 5], [1, 1]]
    assert profile.mean().tolist() == [0, 1, 3]
    assert profile.variance().tolist() == [0, 2, 8]


def test_merged_profiles_are_that_of_the_whole():
    counts = negative_binomial(90, 40, 0.5)
    whole, merged = Profile.of(counts), Profile.of(counts[:30])
    merged.merge(Profile.of(counts[30:50])).merge(Profile.of(counts[50:]))
    assert faithfulness(whole, merged) == faithfulness(whole, whole)
    np.testing.assert_array_equal(merged.squares, whole.squares)
    np.testing.assert_array_equal(merged.totals, whole.totals)


def test_tallies_give_the_distance_between_the_cells_themselves():
    a, b = negative_binomial(80, 40, 0.5), negative_binomial(120, 40, 0.3, seed=1, depth=1.2)
    found = faithfulness(Profile.of(a), Profile.of(b))
    logs = [np.log(np.maximum(np.asarray(x.sum(axis=1)).ravel(), 1)) for x in (a, b)]
    zeros = [1 - np.diff(x.indptr) / 40 for x in (a, b)]
    assert found["size_factor"] == pytest.approx(wasserstein_distance(*logs))
    assert found["zeros_per_cell"] == pytest.approx(wasserstein_distance(*zeros))


def test_the_same_cells_differ_in_nothing():
    profile = Profile.of(negative_binomial(50, 60, 0.5))
    found = faithfulness(profile, profile)
    assert found.pop("zeros") == profile.zeros
    assert set(found.values()) == {0.0}


def test_depth_shows_in_size_factors_by_its_ratio():
    counts = negative_binomial(200, 60, 0.5)
    found = faithfulness(Profile.of(counts), Profile.of(counts * 2))
    assert found["size_factor"] == pytest.approx(np.log(2))
    assert found["zeros_per_cell"] == found["dropout"] == 0


def test_dispersion_shows_in_the_mean_variance_trend():
    real = Profile.of(negative_binomial(500, 800, 0.5))
    same = faithfulness(real, Profile.of(negative_binomial(500, 800, 0.5, seed=1)))
    poisson = faithfulness(real, Profile.of(negative_binomial(500, 800, 1e-4, seed=1)))
    assert same["mean_variance"] < 0.03
    assert poisson["mean_variance"] > 5 * same["mean_variance"]
    assert poisson["dropout"] > 2 * same["dropout"]


def test_the_trend_of_poisson_counts_is_the_mean():
    profile = Profile.of(negative_binomial(3000, 800, 1e-5))
    edges = trend_edges(profile)
    middle = (edges[1:] + edges[:-1]) / 2
    found = trend(profile, edges)
    assert np.nanmax(np.abs(found - middle)) < 0.1


def test_a_generator_of_nothing_can_be_described():
    found = faithfulness(Profile.of(negative_binomial(20, 30, 0.5)), Profile.of(sparse.csr_matrix((5, 30))))
    assert found["zeros"] == 1
    assert np.isnan(found["mean_variance"])
