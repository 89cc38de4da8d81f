"""Likelihoods beside the negative binomial: Bernoulli and Poisson, each with its sampler of sparse counts.

Source: Palma et al. 2025 (CFGen), section 4.1 and appendix C. Both keep the dense part of the likelihood to one term a
feature, and evaluate the rest at the non-zero entries alone.
"""

import numba
import numpy as np
import torch
from torch.nn import functional as F

NO_DISPERSION = 1e12  # inverse dispersion of a negative binomial that is a Poisson to twelve digits


def bernoulli_nll(logits, rows, columns):
    """Negative log-likelihood of 0/1 values: softplus(logit) everywhere, minus the logit where the value is 1.

    Parameters
    ----------
    logits : (B, P) tensor
    rows, columns : (nnz,) int64 tensors
        Where the ones stand.

    Returns
    -------
    (B,) tensor, nats per cell
    """
    return F.softplus(logits).sum(dim=1).index_add(0, rows, logits[rows, columns], alpha=-1)


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


def draw_bernoulli(probability, seeds):
    """Draw 0/1 values straight into CSR, each from one uniform number that is a hash of (row seed, feature).

    Parameters
    ----------
    probability : (B, P) float32 array
    seeds : (B,) uint64 array
        One seed a row.

    Returns
    -------
    data : (nnz,) uint32 array
        Ones.
    indices : (nnz,) int32 array
    indptr : (B + 1,) int64 array
    """
    probability = np.ascontiguousarray(probability, dtype=np.float32)
    n_cells, n_features = probability.shape
    # Room for the worst case: only the pages that are written become real memory.
    indices = np.empty(n_cells * n_features, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    _draw_rows(probability, np.asarray(seeds, np.uint64), indices, indptr)
    indices = indices[: indptr[-1]].copy()
    return np.ones(len(indices), np.uint32), indices, indptr


@numba.njit(cache=True, nogil=True)
def _draw_rows(probability, seeds, indices, indptr):
    at = 0
    for i in range(probability.shape[0]):
        for p in range(probability.shape[1]):
            # splitmix64 (Steele et al. 2014): the p-th number of the row's stream.
            x = seeds[i] + np.uint64(p + 1) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
            u = (np.float64(x >> np.uint64(11)) + 0.5) * 1.1102230246251565e-16  # 2^-53
            if u < probability[i, p]:
                indices[at] = p
                at += 1
        indptr[i + 1] = at
