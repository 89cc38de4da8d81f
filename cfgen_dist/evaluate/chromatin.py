"""Accessibility against accessibility: TF-IDF, principal components of the real test cells, and distances there.

TF-IDF as muon computes it (Bredikhin et al. 2022, `muon.atac.pp.tfidf` with scale_factor 1e4 and its other defaults):
log1p(1e4 x / total of the cell) * log1p(n cells / total of the peak), the second factor of the real test cells.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluate.distances import mmd_linear, mmd_rbf, wasserstein
from data_loaders.errors import BadInput

SCALE = 1e4
N_PCS = 30
NEIGHBOURS = 10


def inverse_document_frequency(counts):
    """log1p(n cells / total of the peak), float64 (P,); zero for peaks without counts, which say nothing."""
    total = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    return np.log1p(np.divide(counts.shape[0], total, out=np.zeros(len(total)), where=total > 0))


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


@dataclass(frozen=True, eq=False)
class ChromatinReference:
    """Accessibility of real test cells, ready to score any set of cells against. Made by `ChromatinReference.fit`.

    Attributes
    ----------
    labels : array of str (n,)
    binary : bool
        Whether counts are read as open or not.
    idf : float64 array (P,)
    pca : sklearn.decomposition.PCA
        Fitted on the test cells.
    pcs : float64 array (n, C)
        Of the test cells.
    seed : int
    """

    labels: np.ndarray
    binary: bool
    idf: np.ndarray
    pca: PCA
    pcs: np.ndarray
    seed: int

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
            Fewer than two cells or peaks.
        """
        counts = _read(counts, binary)
        if min(counts.shape) < 2:
            raise BadInput(
                f"test cells: {counts.shape[0]} cells x {counts.shape[1]} peaks, expected at least 2 of each"
            )
        idf = inverse_document_frequency(counts)
        values = tf_idf(counts, idf)
        pca = PCA(min(N_PCS, min(values.shape) - 1), svd_solver="arpack", random_state=0).fit(values)
        return cls(np.asarray(labels, dtype=str), binary, idf, pca, pca.transform(values), seed)

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
            `knn_f1`: macro-F1 of a 10-NN classifier of the test cells; `open`: mean share of peaks open in a cell.

        Raises
        ------
        BadInput
            Another number of peaks, or no type in common.
        """
        if counts.shape[1] != len(self.idf):
            raise BadInput(f"cells to score: {counts.shape[1]} peaks, expected the {len(self.idf)} of the test cells")
        labels = np.asarray(labels, dtype=str)
        counts = _read(counts, self.binary)
        pcs = self.pca.transform(tf_idf(counts, self.idf))
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(draw,)))
        shared = np.intersect1d(self.labels, labels)
        if not len(shared):
            raise BadInput(f"cells to score: no type in common with the test cells, found {str(labels[0])!r}")
        types = pd.DataFrame([_distances(self.pcs[self.labels == t], pcs[labels == t], rng) for t in shared])
        metrics = {name: float(types[name].mean()) for name in types}
        metrics |= {f"{name}_all": value for name, value in _distances(self.pcs, pcs, rng).items()}
        classifier = KNeighborsClassifier(min(NEIGHBOURS, len(self.pcs))).fit(self.pcs, self.labels)
        metrics["knn_f1"] = float(f1_score(labels, classifier.predict(pcs), average="macro", zero_division=0))
        metrics["open"] = counts.nnz / np.prod(counts.shape)
        return metrics


def _distances(real, generated, rng):
    transport = wasserstein(real, generated, rng)
    return {
        "w1": transport["w1"],
        "w2": transport["w2"],
        "mmd": mmd_linear(real, generated),
        "mmd_rbf": mmd_rbf(real, generated, rng),
    }


def _read(counts, binary):
    counts = sparse.csr_matrix(counts)
    return counts.sign() if binary else counts
