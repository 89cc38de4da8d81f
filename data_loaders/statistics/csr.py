"""Row-wise work on CSR arrays that scipy does with more memory or not at all."""

from typing import Any, Protocol

import numba
import numpy as np
from scipy.sparse import csr_matrix

from data_loaders.types import Array, Floats, Ints


class Csr(Protocol):
    """The three arrays of rows of counts: scipy's CSR matrices and `SparseRows` have them."""

    @property
    def data(self) -> Any:
        """Counts, row after row (nnz,)."""

    @property
    def indices(self) -> Any:
        """Column of each count (nnz,)."""

    @property
    def indptr(self) -> Any:
        """Where each row begins, and the end (n + 1,)."""


def choose_columns(block: csr_matrix, columns: Ints, n_columns: int) -> csr_matrix:
    """A CSR block with column j renamed to `columns[j]`, and left out where that is -1; columns sorted."""
    data, indices, indptr = _choose(block.data, block.indices, block.indptr, columns)
    chosen = csr_matrix((data, indices, indptr), shape=(block.shape[0], n_columns))
    chosen.sort_indices()  # only looks, where the new names increase like the old ones
    return chosen


@numba.njit(nogil=True, cache=True)
def _choose(data: Array, indices: Ints, indptr: Ints, columns: Ints) -> tuple[Array, Ints, Ints]:
    n = 0
    for k in range(len(indices)):
        n += columns[indices[k]] >= 0
    new_data, new_indices = np.empty(n, data.dtype), np.empty(n, np.int32)
    new_indptr = np.zeros(len(indptr), np.int64)
    n = 0
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            column = columns[indices[k]]
            if column >= 0:
                new_data[n], new_indices[n] = data[k], column
                n += 1
        new_indptr[row + 1] = n
    return new_data, new_indices, new_indptr


@numba.njit(nogil=True, cache=True)
def add_row_sums(rows: Ints, lengths: Ints, columns: Ints, counts: Array, weight: Floats, sums: Floats) -> None:
    """Add to `sums[rows[i]]` the counts of row i times the `weight` of their columns."""
    k = 0
    for i in range(len(rows)):
        for _ in range(lengths[i]):
            sums[rows[i]] += counts[k] * weight[columns[k]]
            k += 1


@numba.njit(nogil=True, cache=True)
def add_row_hashes(rows: Ints, lengths: Ints, columns: Ints, counts: Array, hashes: Array, n_values: Array) -> None:
    """Add to `hashes[rows[i]]` (uint64) and `n_values[rows[i]]` (int32) what row i holds.

    Each (column, count) is hashed by itself and the hashes are summed up, so that rows may come in pieces and in any
    order. Two different rows are taken for the same with a chance of 1 in 2^64.
    """
    k = 0
    for i in range(len(rows)):
        total = np.uint64(0)
        for _ in range(lengths[i]):
            x = (np.uint64(columns[k]) << np.uint64(32)) | np.uint64(counts[k])
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total += x ^ (x >> np.uint64(31))
            k += 1
        hashes[rows[i]] += total
        n_values[rows[i]] += lengths[i]


@numba.njit(nogil=True, cache=True)
def count_chosen(places: Ints, lengths: Ints, columns: Array, names: Ints, sizes: Ints) -> None:
    """Add to `sizes[places[i] + 1]` how many columns of row i have a name, which is not -1; place -1 is no row."""
    k = 0
    for i in range(len(places)):
        n = 0
        if places[i] >= 0:
            for j in range(k, k + lengths[i]):
                n += names[columns[j]] >= 0
            sizes[places[i] + 1] += n
        k += lengths[i]


@numba.njit(nogil=True, cache=True)
def scatter_chosen(
    places: Ints, lengths: Ints, columns: Array, counts: Array, names: Ints, cursor: Ints, out_columns: Ints,
    out_counts: Array,
) -> None:  # fmt: skip
    """Copy what `count_chosen` counts of row i to where `cursor[places[i]]` stands, and move the cursor behind it."""
    k = 0
    for i in range(len(places)):
        if places[i] >= 0:
            at = cursor[places[i]]
            for j in range(k, k + lengths[i]):
                name = names[columns[j]]
                if name >= 0:
                    out_columns[at], out_counts[at] = name, counts[j]
                    at += 1
            cursor[places[i]] = at
        k += lengths[i]
