"""The Bernoulli likelihood of 0/1 values, and its sampler.

Source: Palma et al. 2025 (CFGen), section 4.1 and appendix C. The dense part of the likelihood is one term a feature;
the rest is evaluated at the ones alone.
"""

import numba
import numpy as np
from torch.nn import functional as F

from data_loaders.uniforms import uniform


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
            if uniform(seeds[i], p) < probability[i, p]:
                indices[at] = p
                at += 1
        indptr[i + 1] = at
