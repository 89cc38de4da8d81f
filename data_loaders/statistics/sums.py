"""Sums over cells that can be taken in slices and merged: gene moments and the size-factor law.

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


class SizeFactorLaw:
    """Maximum-likelihood normal law of log size factors over training cells, overall and per category.

    Log size factors are summed around a fixed centre, so that the variance keeps its digits at any number of cells.
    """

    CENTRE = 8.0  # natural log of about 3,000 counts, a usual depth

    def __init__(self):
        self.overall = np.zeros(3)  # number of cells, sum and sum of squares of (log size factor - centre)
        self.by = {}  # label column -> (categories, 3)
        self.smallest, self.largest = np.inf, 0.0

    def add(self, size_factor, codes, n_categories):
        """Add training cells: `size_factor` (n,), `codes` {label: int (n,)}, `n_categories` {label: int}."""
        if len(size_factor) == 0:
            return
        x = np.log(size_factor.astype(np.float64)) - self.CENTRE
        sums = np.stack([np.ones_like(x), x, x * x])
        self.overall += sums.sum(1)
        self.smallest = min(self.smallest, float(size_factor.min()))
        self.largest = max(self.largest, float(size_factor.max()))
        for label, column in codes.items():
            seen = np.stack([np.bincount(column, weights=s, minlength=n_categories[label]) for s in sums], axis=1)
            known = self.by.get(label, np.zeros((0, 3)))
            seen[: len(known)] += known
            self.by[label] = seen

    def summary(self, categories):
        """The law as plain numbers; `categories` {label: list of names} in the order of the codes.

        Returns
        -------
        dict
            `mean_log` and `sd_log` (natural log), `min` and `max` (counts), `n_cells`, and `by` {label: {category: the
            first two and n_cells}}. A category without training cells has None for both; with one, `sd_log` is 0.
        """
        by = {}
        for label, names in categories.items():
            rows = np.zeros((len(names), 3))
            known = self.by.get(label, np.zeros((0, 3)))
            rows[: len(known)] = known
            by[label] = {name: self._law(row) for name, row in zip(names, rows, strict=True)}
        seen = self.overall[0] > 0
        bounds = {"min": self.smallest if seen else None, "max": self.largest if seen else None}
        return self._law(self.overall) | bounds | {"by": by}

    def _law(self, sums):
        n, total, squares = sums
        if n == 0:
            return {"n_cells": 0, "mean_log": None, "sd_log": None}
        mean = total / n
        variance = max(squares / n - mean * mean, 0.0)
        return {"n_cells": int(n), "mean_log": float(mean + self.CENTRE), "sd_log": float(np.sqrt(variance))}
