"""Log-normalised counts: each cell scaled to 1e4 counts, then log1p."""

from typing import Any, Self

import numpy as np
from scipy import sparse

from data_loaders.reading.rows import SparseRows
from data_loaders.statistics.csr import choose_columns
from data_loaders.types import Floats, Ints

SCALE = 1e4


def log_normalise(counts: Any, genes: Ints | None = None) -> sparse.csr_matrix:
    """Scale each cell to 1e4 counts over all genes and take log1p.

    Parameters
    ----------
    counts : scipy CSR or SparseRows (n, G)
    genes : integer array, optional
        Columns to keep, after scaling, in this order.

    Returns
    -------
    scipy CSR float64 (n, G or len(genes))
        A cell without counts stays zero.
    """
    counts = counts.to_scipy() if isinstance(counts, SparseRows) else sparse.csr_matrix(counts)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    if genes is not None:
        columns = np.full(counts.shape[1], -1, np.int64)
        columns[genes] = np.arange(len(genes))
        counts = choose_columns(counts, columns, len(genes))
    values = counts.data * np.repeat(SCALE / np.maximum(totals, 1.0), np.diff(counts.indptr))
    return sparse.csr_matrix((np.log1p(values), counts.indices, counts.indptr), shape=counts.shape)


class LogSums:
    """Number of cells, sums and sums of squares per gene of log-normalised counts, added block by block and merged."""

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self.total, self.squares = np.zeros(n_genes), np.zeros(n_genes)

    def add(self, block: Any) -> None:
        """Add raw counts of whole cells, scipy CSR or SparseRows (n, G)."""
        values = log_normalise(block)
        self.n_cells += block.shape[0]
        self.total += np.asarray(values.sum(axis=0)).ravel()
        self.squares += np.asarray(values.multiply(values).sum(axis=0)).ravel()

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.total += other.total
        self.squares += other.squares
        return self

    def variance(self) -> Floats:
        """Variance per gene (G,), divided by n."""
        n = max(self.n_cells, 1)
        return self.squares / n - (self.total / n) ** 2
