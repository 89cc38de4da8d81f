"""Cell-type classifiers fitted out of core: kNN on principal components, and logistic regression as CellTypist does it.

Both see log1p of counts scaled to 10,000 a cell. One pass over the training cells gives the mean and the covariance of
the genes: they standardise the genes for the regression and hold the components for kNN.
"""

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
        for batch in stream(atlas, rows):
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


def stream(atlas: Atlas, rows: Ints, label: str | None = None, seed: int | None = None) -> CellStream:
    """Batches of the cells in `rows`, with a label column if given: in a random order when there is a seed."""
    labels = [label] if label else []
    return CellStream(atlas, BATCH, rows=rows, labels=labels, shuffle=seed is not None, seed=seed or 0)


def knn(atlas: Atlas, rows: Ints, label: str, moments: Moments, test: Iterable[sparse.csr_matrix]) -> Array:
    """Categories of the test cells by their 10 nearest training cells in principal components.

    Of every training cell 30 numbers are kept, 120 bytes; counts stream by.

    Parameters
    ----------
    atlas : Atlas
    rows : int array
        Training cells.
    label : str
    moments : Moments
    test : iterable of scipy CSR
        Counts of the test cells, such as `Blocks`.

    Returns
    -------
    array of str (n_test,)
    """
    projected, codes = [], []
    for batch in stream(atlas, rows, label):
        projected.append(moments.space.project(batch.counts["rna"].to_scipy()).astype(np.float32))
        codes.append(batch.labels[label])
    points = np.concatenate(projected)
    names = np.asarray(atlas.categories(label), dtype=object)[np.concatenate(codes)]
    index = KNeighborsClassifier(min(NEIGHBOURS, len(points)), algorithm="brute").fit(points, names.astype(str))
    return np.concatenate([index.predict(moments.space.project(block).astype(np.float32)) for block in test])


def logistic(
    atlas: Atlas, rows: Ints, label: str, moments: Moments, test: Iterable[sparse.csr_matrix], seed: int
) -> Array:
    """Categories of the test cells by logistic regression, one against the rest, fitted by stochastic gradient descent.

    CellTypist's recipe (Dominguez Conde et al. 2022): standardised genes, mini-batches of 1,000 cells, 10 epochs. The
    order of the cells is `seed`'s.

    Returns
    -------
    array of str (n_test,)
    """
    model = SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=seed)
    names = np.asarray(atlas.categories(label), dtype=str)
    classes = np.unique(atlas.codes(label)[rows])
    for epoch in range(EPOCHS):
        for batch in stream(atlas, rows, label, seed=seed * EPOCHS + epoch):
            counts = moments.standardise(batch.counts["rna"].to_scipy())
            model.partial_fit(counts, batch.labels[label], classes=classes)
    return names[np.concatenate([model.predict(moments.standardise(block)) for block in test])]
