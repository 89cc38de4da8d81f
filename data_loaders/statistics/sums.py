"""Sums over cells that can be taken in blocks and merged; one pass over an atlas takes them by threads.

Raw counts are integers, so sums of counts and of their squares are exact in float64 (below 2^53) and mean and variance
do not depend on how the cells were divided.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import numba
import numpy as np

from data_loaders.errors import BadInput
from data_loaders.parallel import reduce_items
from data_loaders.progress import progress
from data_loaders.reading.atlas import Atlas
from data_loaders.reading.rows import SparseRows
from data_loaders.statistics.csr import Csr
from data_loaders.types import Array, Bools, Floats, Ints

BLOCK = 2048  # cells read at a time
PARTS = 16  # of the cells, each summed by one thread: fixed, so that sums do not depend on the number of cores


class Sums(Protocol):
    """Anything that is summed over cells."""

    def add(self, block: Any) -> None:
        """Add the cells of a block."""

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""


S = TypeVar("S", bound=Sums)


class Pass(Protocol):
    """One pass over all cells: makes empty sums (one for each thread, or one), adds the cells, returns the total."""

    def __call__(self, new: Callable[[], S]) -> S:
        """Take the sums."""


class GeneMoments:
    """Per gene: cells with the gene, sum and sum of squares of the counts, added block by block and merged.

    Attributes
    ----------
    n_cells : int
        Cells that entered the sums.
    nonzero : int64 (G,)
        Cells with at least one count of the gene, among all cells seen.
    total, squares : float64 (G,)
        Sums over the cells that were counted.
    """

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self.nonzero = np.zeros(n_genes, np.int64)
        self.total = np.zeros(n_genes)
        self.squares = np.zeros(n_genes)

    def add(self, block: Csr) -> None:
        """Add rows of counts without stored zeros."""
        self.add_counted(block, np.ones(len(block.indptr) - 1, bool))

    def add_counted(self, block: Csr, counted: Bools) -> None:
        """As `add`; all rows enter `nonzero`, only the `counted` (n,) ones the other sums."""
        _add_moments(block.data, block.indices, block.indptr, counted, self.nonzero, self.total, self.squares)
        self.n_cells += int(counted.sum())

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.nonzero += other.nonzero
        self.total += other.total
        self.squares += other.squares
        return self

    def mean(self) -> Floats:
        """Mean count per gene (G,); zero when no cell was counted."""
        return self.total / max(self.n_cells, 1)

    def variance(self) -> Floats:
        """Variance per gene (G,), divided by n - 1; zero for fewer than two cells.

        In scanpy's order of operations, so that both agree to the last bit and choose the same variable genes.
        """
        n = self.n_cells
        if n < 2:
            return np.zeros_like(self.total)
        return np.maximum(self.squares / n - (self.total / n) ** 2, 0.0) * (n / (n - 1))


def sum_over(
    atlas: Atlas, rows: Ints, new: Callable[[], S], what: str, prepare: Callable[[SparseRows], Any] | None = None
) -> S:
    """One pass over cells of an atlas, by threads.

    Parameters
    ----------
    atlas : Atlas
    rows : integer array
        The cells, at least one; see `checked_rows`.
    new : callable () -> sums
        Makes empty sums, one for each part of the cells.
    what : str
        Shown with the progress.
    prepare : callable, optional
        What is added of a block of counts in place of the counts.

    Returns
    -------
    The sums of all cells.
    """
    parts = min(PARTS, -(-len(rows) // BLOCK))
    bounds = np.linspace(0, len(rows), parts + 1).astype(np.int64)
    with progress(what, len(rows), "cells") as advance:

        def part(number: int) -> S:
            sums = new()
            for start in range(bounds[number], bounds[number + 1], BLOCK):
                block = atlas.read_sparse(rows[start : min(start + BLOCK, bounds[number + 1])])
                sums.add(prepare(block) if prepare else block)
                advance(len(block))
            return sums

        total: S = reduce_items(part, range(parts), lambda a, b: a.merge(b))
    return total


def checked_rows(atlas: Atlas, rows: Ints | None) -> Ints:
    """The cells to sum over, all when `rows` is None.

    Raises
    ------
    BadInput
        Counts that are not sparse, or no cells.
    """
    atlas.read_sparse(np.arange(min(1, atlas.n_cells)))
    rows = np.arange(atlas.n_cells) if rows is None else np.asarray(rows)
    if len(rows) == 0:
        raise BadInput(f"{atlas.name}: no cells selected; expected some")
    return rows


@numba.njit(nogil=True, cache=True)
def _add_moments(
    data: Array, indices: Ints, indptr: Ints, counted: Bools, nonzero: Ints, total: Floats, squares: Floats
) -> None:
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            gene = indices[k]
            value = float(data[k])
            nonzero[gene] += 1
            if counted[row]:
                total[gene] += value
                squares[gene] += value * value
