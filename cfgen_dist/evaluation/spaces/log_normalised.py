"""The space in which cells are compared: log-normalised counts of the most variable genes, PCA of the real test cells.

Everything comes from sums over cells, so that the space of shards is that of the whole. `pass_over(sums)` is a pass:
it adds all cells to empty sums and returns them, block by block in memory or shard by shard on workers. Of several
passes with sums of one kind each has a number, its second argument.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from cfgen_dist.evaluation.spaces import PassOver
from data_loaders.statistics import variable_genes
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.statistics.pca import Components, CovarianceSums
from data_loaders.statistics.sums import GeneMoments, S
from data_loaders.types import Ints

N_GENES = 2000
N_PCS = 30
BLOCK = 2048  # cells read and projected at a time


class LogCovariance(CovarianceSums):
    """Covariance sums of log-normalised counts of some genes, from blocks of raw counts."""

    def __init__(self, genes: Ints) -> None:
        super().__init__(len(genes))
        self.genes = genes

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add raw counts, scipy CSR (n, G)."""
        super().add(log_normalise(counts, self.genes))


def choose_genes(n_genes: int, pass_over: PassOver, limit: int = N_GENES) -> Ints:
    """Columns of the most variable genes by Seurat 3's method, ascending; all of them when there are no more.

    The genes of `scanpy.pp.highly_variable_genes(flavor="seurat_v3")`. With so few cells that its trend cannot be
    fitted, those of largest variance after log-normalising: see `data_loaders.statistics.variable_genes`.

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
    moments = pass_over(GeneMoments(n_genes))
    return variable_genes.choose(moments, limit, lambda new: pass_over(new())).genes


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
