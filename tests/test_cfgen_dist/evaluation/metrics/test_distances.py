"""Distances against closed forms and independent implementations."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import rbf_kernel

from cfgen_dist.evaluation.metrics.distances import WIDTHS, mmd_linear, mmd_linear_time, mmd_rbf, subsample, wasserstein


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_wasserstein_of_equal_numbers_is_the_best_assignment(rng):
    a, b = rng.normal(size=(40, 5)), rng.normal(1, 2, size=(40, 5))
    found = wasserstein(a, b, rng)
    for power, name in ((1, "w1"), (2, "w2")):
        cost = cdist(a, b) ** power
        expected = cost[linear_sum_assignment(cost)].mean() ** (1 / power)
        assert found[name] == pytest.approx(expected, rel=1e-9)
    assert found["w1_sd"] == found["w2_sd"] == 0


def test_wasserstein_of_unequal_numbers_on_a_line(rng):
    a, b = rng.normal(size=(30, 1)), rng.normal(2, 1, size=(50, 1))
    assert wasserstein(a, b, rng)["w1"] == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-9)


def test_a_shift_is_its_length(rng):
    a = rng.normal(size=(60, 3))
    b = a + np.array([3, 0, 4])
    shifted = wasserstein(a, b, rng)
    assert shifted["w1"] == pytest.approx(5)
    assert shifted["w2"] == pytest.approx(5)
    assert mmd_linear(a, b) == pytest.approx(25)
    assert wasserstein(a, a, rng)["w2"] == pytest.approx(0, abs=1e-6)


def test_many_cells_are_subsampled_with_a_spread(rng):
    a, b = rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 1
    exact = wasserstein(a, b, rng)
    part = wasserstein(a, b, np.random.default_rng(1), cells=100, repeats=4)
    assert part["w2_sd"] > 0
    assert part["w2"] == pytest.approx(exact["w2"], rel=0.1)
    assert part == wasserstein(a, b, np.random.default_rng(1), cells=100, repeats=4)


def test_subsample_draws_without_replacement(rng):
    cells = np.arange(50)[:, None]
    assert subsample(cells, 50, rng) is cells
    assert len(np.unique(subsample(cells, 20, rng))) == 20


def test_linear_time_estimate_is_the_public_ones_formula(rng):
    a, b = rng.normal(size=(8, 3)), rng.normal(size=(10, 3))
    terms = [np.dot(a[i] - b[i], a[i + 1] - b[i + 1]) for i in range(7)]
    assert mmd_linear_time(a, b) == pytest.approx(np.mean(terms))
    assert np.isnan(mmd_linear_time(a[:1], b))


def test_linear_time_estimate_is_noisy_around_the_squared_mean_gap(rng):
    found = [mmd_linear_time(rng.normal(size=(40, 3)), rng.normal(size=(40, 3)) + 0.2) for _ in range(400)]
    assert np.mean(found) == pytest.approx(3 * 0.2**2, abs=0.05)
    assert min(found) < 0


def test_rbf_mixture_is_the_sum_over_kernels_of_pairs_of_two_cells(rng):
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(25, 3)) + 0.5
    expected = 0.0
    for width in WIDTHS:
        gamma = 1 / (2 * width**2)
        for cells in (a, b):
            kernel, n = rbf_kernel(cells, cells, gamma), len(cells)
            expected += (kernel.sum() - np.trace(kernel)) / (n * (n - 1))
        expected -= 2 * rbf_kernel(a, b, gamma).mean()
    assert mmd_rbf(a, b, rng) == pytest.approx(expected)


def test_rbf_mixture_is_zero_on_average_for_cells_of_one_distribution(rng):
    found = [mmd_rbf(rng.normal(size=(30, 5)), rng.normal(size=(20, 5)), rng) for _ in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
    assert min(found) < 0
    assert np.isnan(mmd_rbf(rng.normal(size=(1, 5)), rng.normal(size=(20, 5)), rng))
