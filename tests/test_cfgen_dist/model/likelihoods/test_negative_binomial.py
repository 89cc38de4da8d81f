"""The negative binomial against scipy: its likelihood term by term, its sampler as a distribution."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from cfgen_dist.model.likelihoods.negative_binomial import LARGE_MEAN, draw, negative_log_likelihood


def scipy_nb(mu, theta):
    return stats.nbinom(theta, theta / (theta + mu))


@pytest.mark.parametrize("per_cell", [False, True])
def test_likelihood_equals_scipy(per_cell):
    rng = np.random.default_rng(0)
    mu = rng.lognormal(-1, 2, (7, 40))
    theta = rng.lognormal(1, 1.5, (7, 40) if per_cell else 40)
    counts = rng.poisson(mu).astype(float)
    counts[3] = 0  # a cell without counts
    dense = torch.tensor(counts)
    rows, columns = dense.nonzero(as_tuple=True)
    nll = negative_log_likelihood(
        torch.tensor(mu).log(), torch.tensor(theta).log(), dense[rows, columns], rows, columns
    )
    expected = -scipy_nb(mu, theta).logpmf(counts).sum(axis=1)
    np.testing.assert_allclose(nll, expected, rtol=1e-9)


@pytest.mark.parametrize("log_theta", [8.0, 12.0, 15.0])
def test_float32_likelihood_keeps_its_digits_at_large_theta(log_theta):
    counts = torch.tensor(np.random.default_rng(0).poisson(2.0, (1, 300)).astype(np.float32))
    rows, columns = counts.nonzero(as_tuple=True)
    theta = torch.full((300,), log_theta, requires_grad=True)
    nll = negative_log_likelihood(torch.full((1, 300), 0.7), theta, counts[rows, columns], rows, columns)
    nll.sum().backward()
    expected = -scipy_nb(np.exp(0.7), np.exp(log_theta)).logpmf(counts.numpy()).sum()
    assert nll.item() == pytest.approx(expected, rel=1e-4)
    assert theta.grad.abs().max() < 1e-2, "a Poisson by now: theta has nothing to gain"


def test_likelihood_gradient_equals_the_dense_formula():
    rng = np.random.default_rng(1)
    counts = torch.tensor(rng.poisson(rng.lognormal(-1, 1.5, (5, 30))).astype(float))
    log_mu = torch.tensor(rng.normal(-1, 1, (5, 30)), requires_grad=True)
    log_theta = torch.tensor(rng.normal(1, 1, 30), requires_grad=True)
    rows, columns = counts.nonzero(as_tuple=True)
    negative_log_likelihood(log_mu, log_theta, counts[rows, columns], rows, columns).sum().backward()
    sparse = log_mu.grad.clone(), log_theta.grad.clone()
    log_mu.grad = log_theta.grad = None
    mu, theta = log_mu.exp(), log_theta.exp()
    dense = (
        torch.lgamma(counts + theta)
        - torch.lgamma(theta)
        - torch.lgamma(counts + 1)
        + theta * (theta / (theta + mu)).log()
        + counts * (mu / (theta + mu)).log()
    )
    (-dense.sum()).backward()
    torch.testing.assert_close(sparse[0], log_mu.grad)
    torch.testing.assert_close(sparse[1], log_theta.grad)


@pytest.mark.parametrize("mu", [0.003, 0.2, 3.0, 25.0, 400.0])
@pytest.mark.parametrize("theta", [0.3, 10.0, 1e5])
def test_draws_follow_the_distribution(mu, theta):
    """Chi-squared test of 100,000 draws against scipy's probabilities, and their mean and variance."""
    n = 1000
    rho = np.full((n, 100), 0.01, dtype=np.float32)
    seeds = np.random.default_rng(1).integers(0, 2**63, n).astype(np.uint64)
    data, _, _ = draw(rho, np.full(n, mu * 100), np.full(100, theta), seeds, np.random.default_rng(2))
    counts = np.concatenate([data, np.zeros(n * 100 - len(data), dtype=data.dtype)])
    law = scipy_nb(mu, theta)
    edges = np.unique(law.ppf(np.linspace(0, 1, 22)[1:-1]))
    cumulative = np.concatenate([[0.0], law.cdf(edges), [1.0]])
    expected = np.diff(cumulative) * len(counts)
    observed = np.bincount(np.searchsorted(edges, counts, side="left"), minlength=len(expected))
    keep = expected > 5
    chi2 = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi2 < stats.chi2(max(1, keep.sum() - 1)).ppf(1 - 1e-5)
    standard_error = np.sqrt(law.var() / len(counts))
    assert abs(counts.mean() - mu) < 5 * standard_error


def test_a_row_depends_on_its_seed_alone():
    rng = np.random.default_rng(0)
    rho = rng.dirichlet(np.full(50, 0.3), 8).astype(np.float32)
    seeds = np.arange(8, dtype=np.uint64)
    size, theta = np.full(8, 60.0), rng.lognormal(1, 1, (8, 50))
    data, indices, indptr = draw(rho, size, theta, seeds, np.random.default_rng(0))
    for i in range(8):
        alone = draw(rho[i : i + 1], size[i : i + 1], theta[i : i + 1], seeds[i : i + 1], np.random.default_rng(0))
        assert (alone[0] == data[indptr[i] : indptr[i + 1]]).all()
        assert (alone[1] == indices[indptr[i] : indptr[i + 1]]).all()


def test_draws_are_canonical_csr_even_when_large_means_draw_zero():
    rho = np.full((200, 4), 0.25, dtype=np.float32)
    data, indices, indptr = draw(
        rho,
        np.full(200, 4 * 1.5 * LARGE_MEAN),
        np.full(4, 0.05),
        np.arange(200, dtype=np.uint64),
        np.random.default_rng(0),
    )
    assert len(data) < 800, "with theta 0.05 some large means draw zero"
    assert (data > 0).all()
    assert indptr[-1] == len(data) == len(indices)
    for start, end in pairwise(indptr):
        assert (np.diff(indices[start:end]) > 0).all()
