"""Sums over cells that can be taken in slices and merged: gene moments.

Raw counts are integers, so sums of counts and of their squares are exact in float64 (below 2^53) and mean and variance
do not depend on how the cells were sliced.
"""

import numba
import numpy as np


class GeneMoments:
    """Per gene: cells with the gene, sum and sum of squares of the counts, added up slice by slice.

    Attributes
    ----------
    n_cells : int
        Cells that entered the sums.
    nonzero : int64 (G,)
        Cells with at least one count of the gene, among all cells seen.
    total, squares : float64 (G,)
        Sums over the cells that `add` was told to count.
    """

    def __init__(self, n_genes):
        self.n_cells = 0
        self.nonzero = np.zeros(n_genes, np.int64)
        self.total = np.zeros(n_genes)
        self.squares = np.zeros(n_genes)

    def add(self, data, indices, indptr, counted=None):
        """Add the rows of a CSR slice; `counted` (bool per row) says which of them enter `total` and `squares`."""
        n_rows = len(indptr) - 1
        counted = np.ones(n_rows, bool) if counted is None else counted
        _add_moments(data, indices, indptr, counted, self.nonzero, self.total, self.squares)
        self.n_cells += int(counted.sum())

    def merge(self, other):
        """Add the sums of another slice and return self."""
        self.n_cells += other.n_cells
        for name in ("nonzero", "total", "squares"):
            getattr(self, name)[:] += getattr(other, name)
        return self

    def mean(self):
        """Mean count per gene (G,); zero when no cell was counted."""
        return self.total / max(self.n_cells, 1)

    def variance(self):
        """Variance per gene (G,), divided by n - 1; zero for fewer than two cells.

        In scanpy's order of operations, so that both agree to the last bit and choose the same variable genes.
        """
        n = self.n_cells
        if n < 2:
            return np.zeros_like(self.total)
        return np.maximum(self.squares / n - (self.total / n) ** 2, 0.0) * (n / (n - 1))


@numba.njit(nogil=True, cache=True)
def _add_moments(data, indices, indptr, counted, nonzero, total, squares):
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            gene = indices[k]
            value = float(data[k])
            nonzero[gene] += 1
            if counted[row]:
                total[gene] += value
                squares[gene] += value * value
