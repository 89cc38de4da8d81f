"""Poisson and Bernoulli against scipy, and the constant model that training starts from, for all three."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.likelihoods.bernoulli import bernoulli_nll, draw_bernoulli
from cfgen_dist.model.likelihoods.negative_binomial import draw
from cfgen_dist.model.likelihoods.poisson import NO_DISPERSION, poisson_nll


def test_likelihoods_are_scipys():
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 2, (20, 30))
    x = rng.random((20, 30)) < 0.3
    rows, columns = (torch.from_numpy(place) for place in x.nonzero())
    ours = bernoulli_nll(torch.from_numpy(logits), rows, columns)
    np.testing.assert_allclose(ours, -stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x).sum(axis=1))
    mean = rng.lognormal(-1, 1, (20, 30))
    counts = rng.poisson(mean)
    rows, columns = (torch.from_numpy(place) for place in counts.nonzero())
    values = torch.from_numpy(counts[counts.nonzero()].astype(float))
    ours = poisson_nll(torch.from_numpy(np.log(mean)), values, rows, columns)
    np.testing.assert_allclose(ours, -stats.poisson(mean).logpmf(counts).sum(axis=1))


def test_draws_have_their_law():
    rng = np.random.default_rng(1)
    n = 20_000
    probability = np.tile(np.array([0.0, 0.01, 0.3, 0.97, 1.0], np.float32), (n, 1))
    data, indices, indptr = draw_bernoulli(probability, rng.integers(0, 2**64, n, dtype=np.uint64))
    drawn = sparse.csr_matrix((data, indices, indptr), shape=(n, 5)).toarray()
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(axis=0), probability[0], atol=4 * np.sqrt(0.25 / n))
    assert abs(np.corrcoef(drawn[:, 2], drawn[:, 3])[0, 1]) < 4 / np.sqrt(n)
    mean = np.array([0.02, 1.0, 7.0, 90.0])  # the last one above what inversion draws
    rho = np.tile((mean / mean.sum()).astype(np.float32), (n, 1))
    seeds = rng.integers(0, 2**64, n, dtype=np.uint64)
    parts = draw(rho, np.full(n, mean.sum()), np.full(4, NO_DISPERSION), seeds, rng)
    drawn = sparse.csr_matrix(parts, shape=(n, 4)).toarray()
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=4 * np.sqrt(90 / n), rtol=0.02)
    np.testing.assert_allclose(drawn.var(axis=0), mean, rtol=0.06)
    for column, m in ((1, 1.0), (2, 7.0)):
        observed = np.bincount(drawn[:, column], minlength=40)[:40] / n
        assert np.abs(observed - stats.poisson(m).pmf(np.arange(40))).max() < 4 * np.sqrt(0.25 / n)


@pytest.mark.parametrize("likelihood", ["nb", "bernoulli", "poisson"])
def test_training_starts_from_the_constant_model(likelihood):
    """At the start the decoder says the mean of every feature, whatever the latent."""
    rng = np.random.default_rng(2)
    mean = rng.lognormal(-1.5, 0.5, 40)
    model = Autoencoder(40, 6, hidden=(16, 8), likelihood=likelihood).eval()
    model.start_at(torch.from_numpy(mean).float(), 10_000)
    decoded = model.decode(torch.randn(3, 6)).detach().numpy()
    if likelihood == "bernoulli":
        np.testing.assert_allclose(1 / (1 + np.exp(-decoded)), np.tile(1 - np.exp(-mean), (3, 1)), rtol=2e-3)
    else:
        np.testing.assert_allclose(np.exp(decoded), np.tile(mean / mean.sum(), (3, 1)), rtol=2e-3)
