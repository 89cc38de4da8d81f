"""The space in which accessibility is compared: TF-IDF, and principal components of the real test cells.

TF-IDF as muon computes it (Bredikhin et al. 2022, `muon.atac.pp.tfidf` with scale_factor 1e4 and its other defaults):
log1p(1e4 x / total of the cell) * log1p(n cells / total of the peak), the second factor of the real test cells.

As in `cfgen_dist.evaluation.spaces.log_normalised` everything comes from sums over cells, in memory or in shards.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cfgen_dist.evaluation.spaces import PassOver
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK, N_PCS
from data_loaders.statistics.pca import COVARIANCE_GENES, CovarianceSums, ProductSums, lanczos
from data_loaders.statistics.sums import GeneMoments
from data_loaders.types import Floats

SCALE = 1e4
SEED = 0  # of the vectors that the iteration for many peaks starts with
PASSES = 16  # of that iteration: the spectrum of accessibility is flat


def inverse_document_frequency(n_cells: int, total: npt.ArrayLike) -> Floats:
    """log1p(n cells / total of the peak), float64 (P,); zero for peaks without counts, which say nothing."""
    total = np.asarray(total, dtype=np.float64)
    return np.log1p(np.divide(n_cells, total, out=np.zeros(len(total)), where=total > 0))


def tf_idf(counts: sparse.spmatrix, idf: Floats) -> sparse.csr_matrix:
    """TF-IDF of counts (n, P), CSR float64; a cell without counts stays zero.

    Parameters
    ----------
    counts : scipy sparse (n, P)
    idf : float64 array (P,)
        As `inverse_document_frequency` gives it.
    """
    values = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    totals = np.asarray(values.sum(axis=1)).ravel()
    values.data *= np.repeat(SCALE / np.maximum(totals, 1.0), np.diff(values.indptr))
    np.log1p(values.data, out=values.data)
    values.data *= idf[values.indices]
    return values


class TfIdfCovariance(CovarianceSums):
    """Covariance sums of TF-IDF, from blocks of raw counts."""

    def __init__(self, idf: Floats) -> None:
        super().__init__(len(idf))
        self.idf = idf

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add raw counts, scipy CSR (n, P)."""
        super().add(tf_idf(counts, self.idf))


class TfIdfProducts(ProductSums):
    """What multiplies the covariance of TF-IDF with some vectors, from blocks of raw counts."""

    def __init__(self, idf: Floats, vectors: Floats) -> None:
        super().__init__(vectors)
        self.idf = idf

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add raw counts, scipy CSR (n, P)."""
        super().add(tf_idf(counts, self.idf))


@dataclass(frozen=True, eq=False)
class TfIdfSpace:
    """The space in which accessibility is compared.

    Attributes
    ----------
    idf, mean : float64 arrays (P,)
    loadings : float64 array (P, C)
    """

    idf: Floats
    mean: Floats
    loadings: Floats

    def project(self, counts: sparse.csr_matrix, *, centred: bool = True) -> Floats:
        """Components (n, C) of raw counts (n, P), scipy CSR; the mean taken off if centred."""
        parts = [np.empty((0, self.loadings.shape[1]))]
        for start in range(0, counts.shape[0], BLOCK):
            parts.append(tf_idf(counts[start : start + BLOCK], self.idf) @ self.loadings)
        return np.concatenate(parts) - (self.mean @ self.loadings if centred else 0.0)


def fit_tf_idf(n_peaks: int, pass_over: PassOver, n_pcs: int = N_PCS) -> TfIdfSpace:
    """Fit the space: in two passes over the test cells, exactly, or for more than 4,096 peaks in 17 by iteration.

    Parameters
    ----------
    n_peaks : int
        P.
    pass_over : callable
        As in `cfgen_dist.evaluation.spaces.log_normalised`.
    n_pcs : int

    Returns
    -------
    TfIdfSpace
    """
    moments = pass_over(GeneMoments(n_peaks))
    idf = inverse_document_frequency(moments.n_cells, moments.total)
    n_pcs = max(min(n_pcs, n_peaks - 1, moments.n_cells - 1), 1)
    if n_peaks <= COVARIANCE_GENES:
        found = pass_over(TfIdfCovariance(idf)).components(np.arange(n_peaks), n_pcs)
        return TfIdfSpace(idf, found.mean, found.loadings)
    loadings, _, sums = lanczos(n_peaks, n_pcs, SEED, lambda v, k: pass_over(TfIdfProducts(idf, v), k), PASSES)
    return TfIdfSpace(idf, sums.mean(), loadings)
