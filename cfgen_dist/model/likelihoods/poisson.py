"""The Poisson likelihood of sparse counts: a negative binomial without dispersion (CFGen, appendix C)."""

import torch

NO_DISPERSION = 1e12  # inverse dispersion of a negative binomial that is a Poisson to twelve digits


def poisson_nll(log_mu, values, rows, columns):
    """Negative log-likelihood of Poisson counts: mu everywhere, lgamma(x + 1) - x log mu where x > 0.

    Parameters
    ----------
    log_mu : (B, P) tensor
    values : (nnz,) tensor
        The non-zero counts, as floats.
    rows, columns : (nnz,) int64 tensors

    Returns
    -------
    (B,) tensor, nats per cell
    """
    at_counts = torch.lgamma(values + 1) - values * log_mu[rows, columns]
    return log_mu.exp().sum(dim=1).index_add(0, rows, at_counts)
