"""How near the cells of an audit are to the cells of a set: added up block by block, exact whatever the blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse
from scipy.special import logsumexp

from data_loaders.types import Array, Bools, Floats, Ints

BLOCK = 1024  # cells of the set compared at a time
KERNEL = 0.3  # width of the kernel, in median distances of a held-out cell to its nearest reference


@dataclass(frozen=True)
class Queries:
    """The cells that are asked about.

    Attributes
    ----------
    points : float64 array (2 n, C)
        Principal components.
    counts : scipy CSR int64 (2 n, G)
    reference : float64 array (2 n,)
        Distance to the nearest cell of the reference.
    reference_density : float64 array (2 n,)
        Log of the mean kernel over the reference.
    width : float
        Of the kernel.
    """

    points: Floats
    counts: sparse.csr_matrix
    reference: Floats
    reference_density: Floats
    width: float

    @classmethod
    def of(cls, points: Floats, counts: sparse.csr_matrix, fold: Ints, reference: Bools) -> Self:
        """Measure the reference: those of the second half of the cells that are the reference of a cell's fold."""
        n = len(points) // 2
        nearest = np.full(2 * n, np.inf)
        blocks = [slice(start, min(start + BLOCK, 2 * n)) for start in range(0, 2 * n, BLOCK)]
        for block in blocks:
            nearest[block] = np.sqrt(_to_reference(points, reference[fold[block]], block).min(axis=1))
        width = float(np.median(nearest[n:])) * KERNEL
        sums = np.concatenate(
            [
                logsumexp(_to_reference(points, reference[fold[block]], block) / (-2 * width**2), axis=1)
                for block in blocks
            ]
        )
        return cls(points, counts.astype(np.int64), nearest, sums - np.log(reference.sum(axis=1)[fold]), width)


def _to_reference(points: Floats, reference: Bools, block: slice) -> Floats:
    """Squared distances of some queries to the held-out ones, infinite to those that are not their reference."""
    n = len(points) // 2
    squared = squared_distances(points[block], points[n:])
    squared[~reference] = np.inf
    return squared


@dataclass(frozen=True)
class Nearest:
    """Of each query what a set of cells is to it; `add` makes a new one.

    Attributes
    ----------
    n_cells : int
        Of the set.
    distance : float64 array (2 n,)
        To the nearest cell of the set.
    overlap : float64 array (2 n,)
        Counts in common with that cell, as a share of those of the larger of the two.
    log_sum : float64 array (2 n,)
        Log of the sum of the kernel over the set.
    attached : int64 array (2 n,)
        How many cells of the set have this query as the nearest of all.
    """

    n_cells: int
    distance: Floats
    overlap: Floats
    log_sum: Floats
    attached: Ints

    @classmethod
    def empty(cls, n: int) -> Self:
        """Of a set without cells."""
        return cls(0, np.full(n, np.inf), np.zeros(n), np.full(n, -np.inf), np.zeros(n, np.int64))

    def merge(self, other: Nearest) -> Nearest:
        """Of both sets together, the cells of `other` coming later."""
        nearer = other.distance < self.distance
        return Nearest(
            self.n_cells + other.n_cells,
            np.where(nearer, other.distance, self.distance),
            np.where(nearer, other.overlap, self.overlap),
            np.logaddexp(self.log_sum, other.log_sum),
            self.attached + other.attached,
        )

    def add(self, queries: Queries, points: Floats, counts: sparse.csr_matrix) -> Nearest:
        """With further cells: their components (m, C) and counts (m, G)."""
        found = self
        for start in range(0, len(points), BLOCK):
            block = slice(start, min(start + BLOCK, len(points)))
            found = found._add(queries, points[block], counts[block])
        return found

    def _add(self, queries: Queries, points: Floats, counts: sparse.csr_matrix) -> Nearest:
        squared = squared_distances(queries.points, points)
        nearest = squared.argmin(axis=1)
        distance = np.sqrt(squared[np.arange(len(squared)), nearest])
        attached = np.bincount(squared.argmin(axis=0), minlength=len(squared))
        sums = logsumexp(squared / (-2 * queries.width**2), axis=1)
        better = np.flatnonzero(distance < self.distance)
        shared = np.zeros(len(distance))
        shared[better] = overlap(queries.counts[better], counts[nearest[better]].astype(np.int64))
        return self.merge(Nearest(len(points), distance, shared, sums, attached))


def squared_distances(one: Floats, other: Floats) -> Floats:
    """Squared Euclidean distances (n, m)."""
    squared: Floats = -2 * one @ other.T
    squared += (one**2).sum(axis=1)[:, None]
    squared += (other**2).sum(axis=1)
    return np.maximum(squared, 0, out=squared)


def overlap(one: sparse.csr_matrix, other: sparse.csr_matrix) -> Floats:
    """Counts that two cells have in common, as a share of the larger one's: row by row (n,)."""
    common, *totals = (_row_sums(each) for each in (one.minimum(other), one, other))
    return common / np.maximum(np.maximum(*totals), 1)


def _row_sums(counts: sparse.csr_matrix) -> Array:
    return np.asarray(counts.sum(axis=1), np.float64).ravel()
