"""Loops over rows of sparse matrices, compiled, outside the interpreter lock."""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def gather_rows(data, indices, indptr, rows, out_data, out_indices, out_indptr):
    """Copy `rows` of a CSR matrix, in that order, to the CSR matrix `out` whose row offsets are known."""
    for i in range(len(rows)):
        start = indptr[rows[i]]
        to = out_indptr[i]
        for k in range(out_indptr[i + 1] - to):
            out_data[to + k] = data[start + k]
            out_indices[to + k] = indices[start + k]


@numba.njit(nogil=True, cache=True)
def scatter_dense(data, indices, indptr, out):
    """Add CSR rows to the zeroed dense matrix `out` (n, n_features)."""
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            out[i, indices[k]] += data[k]


@numba.njit(nogil=True, cache=True)
def sum_rows(data, indptr):
    """Sum of every row, float64 (n,)."""
    out = np.zeros(len(indptr) - 1)
    for i in range(len(out)):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k]
        out[i] = total
    return out
