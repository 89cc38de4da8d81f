"""From counts to principal components: scale to 1e4, log1p, the most variable genes, PCA of the real test cells.

The PCA is computed from sums over cells that are taken in blocks and merged, so that a fit over shards equals this one.
"""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.linalg
from scipy import sparse

SCALE = 1e4
N_GENES = 2000
N_PCS = 30
DISTINCT_MEANS = 8  # a neighbourhood of the loess fit of `seurat_v3` needs as many
BLOCK = 2048  # cells made dense at a time


def log_normalise(counts, genes=None):
    """Scale each cell to 1e4 counts over all genes and take log1p.

    Parameters
    ----------
    counts : scipy CSR (n, G)
    genes : integer array, optional
        Columns to keep, after scaling.

    Returns
    -------
    scipy CSR float64 (n, G or len(genes))
        A cell without counts stays zero.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    counts.data *= np.repeat(SCALE / np.maximum(totals, 1.0), np.diff(counts.indptr))
    np.log1p(counts.data, out=counts.data)
    return counts if genes is None else counts[:, genes]


def variable_genes(counts, n_genes=N_GENES):
    """Columns of the most variable genes by scanpy's `seurat_v3`, ascending; all of them when there are no more.

    With so few cells that `seurat_v3` cannot fit its trend, those of largest variance after log-normalising.

    Parameters
    ----------
    counts : scipy CSR (n, G)
        Raw counts.
    n_genes : int

    Returns
    -------
    int array
    """
    if counts.shape[1] <= n_genes:
        return np.arange(counts.shape[1])
    if not _loess_is_safe(counts):
        values = log_normalise(counts)
        mean = np.asarray(values.mean(axis=0)).ravel()
        variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
        return np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    cells = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    table = sc.pp.highly_variable_genes(cells, flavor="seurat_v3", n_top_genes=n_genes, inplace=False)
    return np.flatnonzero(table["highly_variable"].to_numpy())


def _loess_is_safe(counts):
    """Whether the gene means differ enough for the loess fit of `seurat_v3`.

    With few cells many genes share one mean. A neighbourhood of the fit (30 % of the varying genes) with too few
    distinct means makes it fail, and repeated failures crash the process.
    """
    total = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    squares = np.asarray(counts.multiply(counts).sum(axis=0, dtype=np.float64)).ravel()
    varying = squares * counts.shape[0] > total**2
    means = np.sort(total[varying])
    window = int(0.3 * len(means))
    if window < DISTINCT_MEANS:
        return False
    ranks = np.cumsum(np.diff(means, prepend=-1.0) > 0)
    return int((ranks[window - 1 :] - ranks[: len(ranks) - window + 1]).min()) + 1 >= DISTINCT_MEANS


class CovarianceSums:
    """Number of cells, sum and sum of outer products of their values, added block by block and merged."""

    def __init__(self, n_features):
        self.n_cells = 0
        self.total = np.zeros(n_features)
        self.outer = np.zeros((n_features, n_features))

    def add(self, block):
        """Add a dense block (n, n_features)."""
        self.n_cells += len(block)
        self.total += block.sum(axis=0)
        self.outer += block.T @ block

    def merge(self, other):
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.total += other.total
        self.outer += other.outer
        return self

    def mean(self):
        """Mean (n_features,)."""
        return self.total / self.n_cells

    def covariance(self):
        """Covariance (n_features, n_features), divided by n - 1."""
        mean = self.mean()
        return (self.outer - self.n_cells * np.outer(mean, mean)) / max(self.n_cells - 1, 1)


@dataclass(frozen=True)
class Space:
    """Principal components of the real test cells.

    Attributes
    ----------
    genes : int array (F,)
        Columns of the counts that are used.
    mean : float64 array (F,)
    loadings : float64 array (F, C)
    """

    genes: np.ndarray
    mean: np.ndarray
    loadings: np.ndarray

    @classmethod
    def fit(cls, counts, n_genes=N_GENES, n_pcs=N_PCS):
        """Pick the genes and fit the components on counts (n, G) of real cells."""
        genes = variable_genes(counts, n_genes)
        sums = CovarianceSums(len(genes))
        for start in range(0, counts.shape[0], BLOCK):
            sums.add(log_normalise(counts[start : start + BLOCK], genes).toarray())
        return cls.from_sums(genes, sums, n_pcs)

    @classmethod
    def from_sums(cls, genes, sums, n_pcs=N_PCS):
        """The components that belong to the merged sums of log-normalised values of `genes`."""
        last = len(genes) - 1
        n_pcs = min(n_pcs, len(genes), max(sums.n_cells - 1, 1))
        _, vectors = scipy.linalg.eigh(sums.covariance(), subset_by_index=[last - n_pcs + 1, last])
        loadings = vectors[:, ::-1]
        strongest = np.abs(loadings).argmax(axis=0)  # an eigenvector's sign is arbitrary: fix it
        loadings = loadings * np.sign(loadings[strongest, np.arange(n_pcs)])
        return cls(genes, sums.mean(), loadings)

    def project(self, counts, *, centred=True):
        """Components (n, C) of counts (n, G); without the mean subtracted when not `centred`."""
        parts = [np.empty((0, self.loadings.shape[1]))]
        for start in range(0, counts.shape[0], BLOCK):
            parts.append(log_normalise(counts[start : start + BLOCK], self.genes) @ self.loadings)
        return np.concatenate(parts) - (self.mean @ self.loadings if centred else 0.0)
