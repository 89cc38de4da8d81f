"""Genes at equal depth: blind to depth itself, sees cells that spread their counts over too many or too few genes."""

import numpy as np
import pytest
from scipy import sparse

from cfgen_dist.evaluation.metrics.depth import curve_of, genes_at_depth
from cfgen_dist.evaluation.metrics.faithfulness import Profile

GENES = 500


def cells(rng, n=2000, depth=400, dispersion=5.0):
    """Profile of cells of many depths."""
    mean = np.exp(np.random.default_rng(1).normal(0, 1.5, GENES))
    mean = np.outer(depth * rng.lognormal(0, 0.4, n), mean / mean.sum())
    counts = rng.poisson(rng.gamma(dispersion, mean / dispersion))
    return Profile.of(sparse.csr_matrix(counts)), counts


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_curves_add_up(rng):
    profile, counts = cells(rng)
    halves = [Profile.of(sparse.csr_matrix(half)) for half in (counts[:700], counts[700:])]
    assert (halves[0].merge(halves[1]).curve == profile.curve).all()
    assert profile.curve.sum(axis=1).tolist() == [2000, counts.sum(), (counts > 0).sum()]
    assert curve_of(np.array([0, 1]), np.array([0, 1])).sum(axis=1).tolist() == [1, 1, 1]


def test_fresh_cells_are_on_the_curve(rng):
    assert genes_at_depth(cells(rng)[0], cells(rng)[0]) < 0.01


def test_deeper_cells_are_on_the_same_curve(rng):
    assert genes_at_depth(cells(rng)[0], cells(rng, depth=600)[0]) < 0.015


def test_cells_with_fewer_genes_are_off_it(rng):
    real = cells(rng)[0]
    clumped = cells(rng, dispersion=1.0)[0]
    lost = genes_at_depth(real, clumped)
    assert lost > 0.05
    mean = [profile.curve[2].sum() / profile.curve[0].sum() for profile in (real, clumped)]
    assert lost == pytest.approx(1 - mean[1] / mean[0], abs=0.05)


def test_depths_that_no_real_cell_has(rng):
    assert np.isnan(genes_at_depth(cells(rng, depth=50)[0], cells(rng, depth=5000)[0]))
    assert np.isnan(genes_at_depth(cells(rng, n=3)[0], cells(rng)[0]))
