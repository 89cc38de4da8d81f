"""Abundance bias: sees rare genes that are starved, and is not taken in by genes that are rare by chance."""

import numpy as np
import pytest
from scipy import sparse

from cfgen_dist.evaluation.metrics.abundance import abundance
from cfgen_dist.evaluation.metrics.faithfulness import Profile

GENES = 2000
MEAN = np.exp(np.random.default_rng(1).normal(-2, 1.5, GENES))


def cells(rng, mean=MEAN, n=300):
    """Profile of cells."""
    return Profile.of(sparse.csr_matrix(rng.poisson(mean, (n, GENES))))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def starved(by):
    """The means, those of the rarest genes with a fifth of all counts lower by a share."""
    order = np.argsort(MEAN)
    rare = order[: np.searchsorted(np.cumsum(MEAN[order]), MEAN.sum() / 5)]
    mean = MEAN.copy()
    mean[rare] *= 1 - by
    return mean


def test_fresh_cells_have_none(rng):
    found = [abundance(cells(rng, n=40), cells(rng, n=40)) for _ in range(20)]
    assert np.mean([each["rare_genes"] for each in found]) == pytest.approx(1, abs=0.01), "not even of few cells"
    assert np.mean([each["abundance"] for each in found]) < 0.03


@pytest.mark.parametrize("by", [0.05, 0.1, -0.1])
def test_starved_genes_are_seen(rng, by):
    found = abundance(cells(rng), cells(rng, starved(by)))
    assert found["rare_genes"] == pytest.approx((1 - by) / (1 - by / 5), abs=0.015)
    assert found["abundance"] > abs(by) / 5


def test_depth_alone_is_not(rng):
    assert abundance(cells(rng), cells(rng, 3 * MEAN))["rare_genes"] == pytest.approx(1, abs=0.01)


def test_cells_without_counts(rng):
    assert np.isnan(list(abundance(cells(rng), cells(rng, 0 * MEAN)).values())).all()
