"""Cell-type classifiers fitted out of core: kNN on principal components, and logistic regression as CellTypist does it.

Both see log1p of counts scaled to 10,000 a cell. One pass over the real training cells gives the mean and the
covariance of the genes: they standardise the genes for the regression and hold the components for kNN.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse
from sklearn.linear_model import SGDClassifier
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluation.spaces.log_normalised import LogCovariance, components
from data_loaders import Atlas, CellStream
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.statistics.pca import Components
from data_loaders.streaming.epoch import EpochPlan, plan_epoch
from data_loaders.types import Array, Floats, Ints

N_PCS = 30
NEIGHBOURS = 10
BATCH = 1000  # cells of a mini-batch, as CellTypist's
EPOCHS = 10
CLIP = 10.0  # standardised values above this are cut, as CellTypist's
ALPHA = 1e-4  # L2 penalty


@dataclass(frozen=True, eq=False)
class Moments:
    """What the training cells say about the genes.

    Attributes
    ----------
    space : Components
        Principal components.
    mean, std : float64 arrays (G,)
        Of the log-normalised genes; std is 1 where a gene does not vary.
    """

    space: Components
    mean: Floats
    std: Floats

    @classmethod
    def fit(cls, atlas: Atlas, rows: Ints) -> Self:
        """Sum over the cells of an atlas in these rows."""
        sums = LogCovariance(np.arange(atlas.n_genes))
        for batch in CellStream(atlas, BATCH, rows=rows, shuffle=False):
            sums.add(batch.counts["rna"].to_scipy())
        variance = np.diag(sums.covariance())
        std = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
        return cls(components(sums, sums.genes, N_PCS), sums.mean(), std)

    def standardise(self, counts: sparse.csr_matrix) -> Floats:
        """Counts (n, G) as float32 (n, G) with mean 0 and variance 1 over the training cells, cut at `CLIP`."""
        values = (log_normalise(counts).toarray() - self.mean) / self.std
        return np.minimum(values, CLIP).astype(np.float32)


class Blocks:
    """Counts of some cells in blocks, scipy CSR, read anew each time they are gone through."""

    def __init__(self, atlas: Atlas, rows: Ints) -> None:
        self.atlas, self.rows = atlas, rows

    def __iter__(self) -> Iterator[sparse.csr_matrix]:
        for start in range(0, len(self.rows), BATCH):
            yield self.atlas.read(self.rows[start : start + BATCH]).to_scipy()


class Repeated(CellStream):
    """Labelled cells as `CellStream` shows them, in which a row stands as often as `rows` names it.

    Parameters
    ----------
    atlas : Atlas
    rows : int array
        In any order.
    label : str
    seed : int
        Of the order.
    """

    def __init__(self, atlas: Atlas, rows: Ints, label: str, seed: int = 0) -> None:
        self._named = np.sort(rows)
        super().__init__(atlas, BATCH, rows=np.unique(rows), labels=[label], seed=seed)

    def _plan(self, epoch: int) -> EpochPlan:
        block_rows, windows = (1, len(self._named)) if self._fits else (self._block_rows, self._window_batches)
        return plan_epoch(
            self._named, self.batch_size, seed=self.seed, epoch=epoch, block_rows=block_rows, window_batches=windows
        )


def project(atlas: Atlas, rows: Ints, moments: Moments) -> Floats:
    """Principal components of cells, float32 (n, C) in the order of `rows`; counts stream by.

    Of every cell 30 numbers are kept, 120 bytes.
    """
    parts = [moments.space.project(block).astype(np.float32) for block in Blocks(atlas, rows)]
    return np.concatenate(parts)


def knn(points: Floats, names: Array, test: Floats) -> Array:
    """Categories of the test cells by their 10 nearest training cells in principal components.

    Parameters
    ----------
    points : (n, C) array
        Training cells.
    names : array of str (n,)
        Their categories.
    test : (m, C) array

    Returns
    -------
    array of str (m,)
    """
    index = KNeighborsClassifier(min(NEIGHBOURS, len(points)), algorithm="brute").fit(points, names)
    return index.predict(test)


def logistic(
    atlas: Atlas, rows: Ints, label: str, moments: Moments, test: Iterable[sparse.csr_matrix], seed: int, steps: int
) -> Array:
    """Categories of the test cells by logistic regression, one against the rest, fitted by stochastic gradient descent.

    CellTypist's recipe (Dominguez Conde et al. 2022): standardised genes, mini-batches of 1,000 cells. The order of the
    cells is `seed`'s.

    Parameters
    ----------
    atlas : Atlas
    rows : int array
        Training cells; a row that is named twice counts twice.
    label : str
    moments : Moments
        What standardises the genes.
    test : iterable of scipy CSR
        Counts of the test cells, such as `Blocks`.
    seed : int
    steps : int
        Mini-batches, in as many epochs as that takes.

    Returns
    -------
    array of str (n_test,)
    """
    model = SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=seed)
    names = np.asarray(atlas.categories(label), dtype=str)
    classes = np.unique(atlas.codes(label)[rows])
    stream = Repeated(atlas, rows, label, seed)
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(stream)), steps):
        counts = moments.standardise(batch.counts["rna"].to_scipy())
        model.partial_fit(counts, batch.labels[label], classes=classes)
    return names[np.concatenate([model.predict(moments.standardise(block)) for block in test])]


def steps_of(n_cells: int) -> int:
    """Mini-batches in CellTypist's 10 epochs of so many cells."""
    return EPOCHS * -(-n_cells // BATCH)
