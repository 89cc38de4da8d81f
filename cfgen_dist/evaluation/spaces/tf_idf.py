"""Accessibility against accessibility: TF-IDF, principal components of the real test cells, and distances there.

TF-IDF as muon computes it (Bredikhin et al. 2022, `muon.atac.pp.tfidf` with scale_factor 1e4 and its other defaults):
log1p(1e4 x / total of the cell) * log1p(n cells / total of the peak), the second factor of the real test cells.

As in `cfgen_dist.evaluation.spaces.log_normalised` everything comes from sums over cells, in memory or in shards.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.score import collect, distances, neighbours
from cfgen_dist.evaluation.sources import check_counts
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK, N_PCS, in_memory
from data_loaders.errors import BadInput, nearest
from data_loaders.statistics.pca import COVARIANCE_GENES, CovarianceSums, ProductSums, lanczos
from data_loaders.statistics.sums import GeneMoments

SCALE = 1e4
SEED = 0  # of the vectors that the iteration for many peaks starts with
PASSES = 16  # of that iteration: the spectrum of accessibility is flat
PIECES = {"distances": distances, "neighbours": neighbours}


def inverse_document_frequency(n_cells, total):
    """log1p(n cells / total of the peak), float64 (P,); zero for peaks without counts, which say nothing."""
    total = np.asarray(total, dtype=np.float64)
    return np.log1p(np.divide(n_cells, total, out=np.zeros(len(total)), where=total > 0))


def tf_idf(counts, idf):
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

    def __init__(self, idf):
        super().__init__(len(idf))
        self.idf = idf

    def add(self, counts):
        """Add raw counts, scipy CSR (n, P)."""
        super().add(tf_idf(counts, self.idf))


class TfIdfProducts(ProductSums):
    """What multiplies the covariance of TF-IDF with some vectors, from blocks of raw counts."""

    def __init__(self, idf, vectors):
        super().__init__(vectors)
        self.idf = idf

    def add(self, counts):
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

    idf: np.ndarray
    mean: np.ndarray
    loadings: np.ndarray

    def project(self, counts, *, centred=True):
        """Components (n, C) of raw counts (n, P), scipy CSR; the mean taken off if centred."""
        parts = [np.empty((0, self.loadings.shape[1]))]
        for start in range(0, counts.shape[0], BLOCK):
            parts.append(tf_idf(counts[start : start + BLOCK], self.idf) @ self.loadings)
        return np.concatenate(parts) - (self.mean @ self.loadings if centred else 0.0)


def fit_tf_idf(n_peaks, pass_over, n_pcs=N_PCS):
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


@dataclass(frozen=True, eq=False)
class ChromatinReference:
    """Accessibility of real test cells, ready to score any set of cells against. Made by `ChromatinReference.fit`.

    Attributes
    ----------
    cells : CellSet
    names : array of str (K,)
        Types, sorted.
    binary : bool
        Whether counts are read as open or not.
    seed : int
    space : TfIdfSpace
        Fitted on the test cells.
    """

    cells: CellSet
    names: np.ndarray
    binary: bool
    seed: int
    space: TfIdfSpace

    @classmethod
    def fit(cls, counts, labels, *, binary=True, seed=0):
        """Prepare real test cells.

        Parameters
        ----------
        counts : scipy sparse (n, P)
            Raw counts.
        labels : sequence (n,)
            Type of each cell.
        binary : bool
            Read counts, of these and of all scored cells, as open (1) or not (0): what a Bernoulli model generates.
        seed : int
            Of the subsamples of large sets.

        Raises
        ------
        BadInput
            Fewer than two cells or peaks, values that are no counts.
        """
        counts = _read(counts, binary, "test cells")
        if min(counts.shape) < 2:
            raise BadInput(
                f"test cells: {counts.shape[0]} cells x {counts.shape[1]} peaks, expected at least 2 of each"
            )
        names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        space = fit_tf_idf(counts.shape[1], in_memory(counts))
        cells = CellSet.scan(counts.__getitem__, codes, len(names), space, counts.shape[1])
        return cls(cells, names, binary, seed, space)

    def score(self, counts, labels, *, draw=0):
        """Distances of a set of cells from the test cells.

        Parameters
        ----------
        counts : scipy sparse (m, P)
            In general as many cells of each type as the reference has (see `matched_rows`).
        labels : sequence (m,)
        draw : int
            Number of the set: sets with other numbers use other random subsamples.

        Returns
        -------
        dict of str to float
            `w1`, `w2`, `mmd`, `mmd_rbf`: mean over the types that both have; the same with `_all`: over all cells;
            `knn_f1`: macro-F1 of a 10-NN classifier of the test cells; `open`: mean share of peaks open in a cell; the
            metrics of `faithfulness`.

        Raises
        ------
        BadInput
            Another number of peaks, a type that the test cells have not, values that are no counts.
        """
        n_peaks = len(self.space.idf)
        if counts.shape[1] != n_peaks:
            raise BadInput(f"cells to score: {counts.shape[1]} peaks, expected the {n_peaks} of the test cells")
        labels = np.asarray(labels, dtype=str)
        unknown = np.setdiff1d(labels, self.names).tolist()
        if unknown:
            raise BadInput(f"cells to score: no test cells of type {unknown[0]!r}, {nearest(unknown[0], self.names)}")
        counts = _read(counts, self.binary, "cells to score")
        codes = np.searchsorted(self.names, labels)
        scored = CellSet.scan(counts.__getitem__, codes, len(self.names), self.space, n_peaks)
        pieces = {
            name: piece(self.cells, scored, paper=False, seed=self.seed, draw=draw) for name, piece in PIECES.items()
        }
        return with_open(collect(pieces, self.cells, scored, self.names)[0])


def with_open(metrics):
    """The metrics of accessibility with `open`, the mean share of peaks open in a cell."""
    return metrics | {"open": 1.0 - metrics["zeros"]}


def _read(counts, binary, what):
    counts = check_counts(sparse.csr_matrix(counts), what)
    return counts.sign() if binary else counts
