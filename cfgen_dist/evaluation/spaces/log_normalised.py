"""The space in which cells are compared: log-normalised counts of the most variable genes, PCA of the real test cells.

Everything comes from sums over cells, so that the space of shards is that of the whole. `pass_over(sums)` is a pass:
it adds all cells to empty sums and returns them, block by block in memory or shard by shard on workers. Of several
passes with sums of one kind each has a number, its second argument.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cfgen_dist.evaluation.spaces import PassOver, S
from data_loaders.statistics import variable_genes as seurat_v3
from data_loaders.statistics.pca import Components, CovarianceSums, log_normalise
from data_loaders.statistics.sums import GeneMoments
from data_loaders.types import Floats, Ints

N_GENES = 2000
N_PCS = 30
DISTINCT_MEANS = 8  # a neighbourhood of the loess fit of `seurat_v3` needs as many
BLOCK = 2048  # cells read and projected at a time


class Moments(GeneMoments):
    """Gene moments that take blocks of counts."""

    def add(self, counts: sparse.csr_matrix) -> None:  # type: ignore[override]
        """Add scipy CSR (n, G) without stored zeros."""
        # One compilation for all types of counts.
        super().add(counts.data.astype(np.int64), counts.indices.astype(np.int32), counts.indptr.astype(np.int64))


class LogSums:
    """Number of cells, sums and sums of squares per gene of log-normalised counts."""

    def __init__(self, n_genes: int) -> None:
        self.n_cells = 0
        self.total, self.squares = np.zeros(n_genes), np.zeros(n_genes)

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add raw counts, scipy CSR (n, G)."""
        values = log_normalise(counts)
        self.n_cells += counts.shape[0]
        self.total += np.asarray(values.sum(axis=0)).ravel()
        self.squares += np.asarray(values.multiply(values).sum(axis=0)).ravel()

    def merge(self, other: LogSums) -> LogSums:
        """Add the sums of other cells and return self."""
        for name in ("n_cells", "total", "squares"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def variance(self) -> Floats:
        """Variance per gene (G,), divided by n."""
        return self.squares / self.n_cells - (self.total / self.n_cells) ** 2


class LogCovariance(CovarianceSums):
    """Covariance sums of log-normalised counts of some genes, from blocks of raw counts."""

    def __init__(self, genes: Ints) -> None:
        super().__init__(len(genes))
        self.genes = genes

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add raw counts, scipy CSR (n, G)."""
        super().add(log_normalise(counts, self.genes))


def choose_genes(n_genes, pass_over, limit=N_GENES):
    """Columns of the most variable genes by Seurat 3's method, ascending; all of them when there are no more.

    The genes of `scanpy.pp.highly_variable_genes(flavor="seurat_v3")`. With so few cells that its trend cannot be
    fitted, those of largest variance after log-normalising.

    Parameters
    ----------
    n_genes : int
        G.
    pass_over : callable
    limit : int

    Returns
    -------
    int array
    """
    if n_genes <= limit:
        return np.arange(n_genes)
    moments = pass_over(Moments(n_genes))
    if not _loess_is_safe(moments):
        return seurat_v3.top(pass_over(LogSums(n_genes)).variance(), limit)

    mean, n_cells = moments.mean(), moments.n_cells
    expected = seurat_v3.expected_variance(mean, moments.variance())
    sums = pass_over(seurat_v3.ClippedSums(seurat_v3.clip_at(mean, expected, n_cells)))
    score = seurat_v3.standardised_variance(mean, expected, n_cells, sums.total, sums.squares)
    return seurat_v3.top(score, limit)


def _loess_is_safe(moments):
    """Whether the gene means differ enough for the loess fit of `seurat_v3`.

    With few cells many genes share one mean. A neighbourhood of the fit (30 % of the varying genes) with too few
    distinct means makes it fail, and repeated failures crash the process.
    """
    varying = moments.squares * moments.n_cells > moments.total**2
    means = np.sort(moments.total[varying])
    window = int(seurat_v3.SPAN * len(means))
    if window < DISTINCT_MEANS:
        return False
    ranks = np.cumsum(np.diff(means, prepend=-1.0) > 0)
    return int((ranks[window - 1 :] - ranks[: len(ranks) - window + 1]).min()) + 1 >= DISTINCT_MEANS


def fit_space(n_genes: int, pass_over: PassOver, limit: int = N_GENES, n_pcs: int = N_PCS) -> Components:
    """Pick genes and fit the components, in one pass for up to `limit` genes and three for more.

    Returns
    -------
    data_loaders.statistics.pca.Components
        With `project(counts, centred=True)`, which is all that comparing needs of a space.
    """
    genes = choose_genes(n_genes, pass_over, limit)
    return components(pass_over(LogCovariance(genes)), genes, n_pcs)


def components(sums: LogCovariance, genes: Ints, n_pcs: int = N_PCS) -> Components:
    """The components of covariance sums, as many of `n_pcs` as there can be."""
    return sums.components(genes, min(n_pcs, len(genes), max(sums.n_cells - 1, 1)))


def in_memory(counts: sparse.csr_matrix) -> PassOver:
    """`pass_over` of counts in memory, scipy CSR (n, G)."""

    def pass_over(sums: S, number: int = 0) -> S:
        for start in range(0, counts.shape[0], BLOCK):
            sums.add(counts[start : start + BLOCK])
        return sums

    return pass_over


class Space(Components):
    """The space of counts that fit in memory."""

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, n_genes: int = N_GENES, n_pcs: int = N_PCS) -> Space:
        """Pick genes and fit the components on counts of real cells, scipy CSR (n, G)."""
        return cls(**vars(fit_space(counts.shape[1], in_memory(counts), n_genes, n_pcs)))
