"""Cell-type classifiers fitted out of core: kNN on principal components, and logistic regression as CellTypist does it.

Both see log1p of counts scaled to 10,000 a cell. One pass over the training cells gives the mean and the covariance of
the genes: they standardise the genes for the regression and hold the components for kNN.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluation.spaces.log_normalised import LogCovariance, components
from data_loaders import CellStream
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.statistics.pca import Components

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
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, atlas, rows):
        """Sum over the cells of an atlas in these rows."""
        sums = LogCovariance(np.arange(atlas.n_genes))
        for counts, _ in batches(atlas, rows):
            sums.add(counts)
        variance = np.diag(sums.covariance())
        std = np.sqrt(np.where(variance > 1e-12, variance, 1.0))
        return cls(components(sums, sums.genes, N_PCS), sums.mean(), std)

    def standardise(self, counts):
        """Counts (n, G) as float32 (n, G) with mean 0 and variance 1 over the training cells, cut at `CLIP`."""
        values = (log_normalise(counts).toarray() - self.mean) / self.std
        return np.minimum(values, CLIP).astype(np.float32)


class Blocks:
    """Counts of some cells in blocks, scipy CSR, read anew each time they are gone through."""

    def __init__(self, atlas, rows):
        self.atlas, self.rows = atlas, rows

    def __iter__(self):
        for start in range(0, len(self.rows), BATCH):
            yield self.atlas.read(self.rows[start : start + BATCH]).to_scipy()


def batches(atlas, rows, label=None, seed=None):
    """Yield (counts, codes) of a stream over `rows`: in a random order when there is a seed."""
    stream = CellStream(
        atlas, BATCH, rows=rows, labels=[label] if label else [], shuffle=seed is not None, seed=seed or 0
    )
    for batch in stream:
        yield batch.counts["rna"].to_scipy(), batch.labels[label] if label else None


def knn(atlas, rows, label, moments, test):
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
    points, codes = [], []
    for counts, code in batches(atlas, rows, label):
        points.append(moments.space.project(counts).astype(np.float32))
        codes.append(code)
    points = np.concatenate(points)
    names = np.asarray(atlas.categories(label), dtype=object)[np.concatenate(codes)]
    index = KNeighborsClassifier(min(NEIGHBOURS, len(points)), algorithm="brute").fit(points, names.astype(str))
    return np.concatenate([index.predict(moments.space.project(block).astype(np.float32)) for block in test])


def logistic(atlas, rows, label, moments, test, seed):
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
        for counts, codes in batches(atlas, rows, label, seed=seed * EPOCHS + epoch):
            model.partial_fit(moments.standardise(counts), codes, classes=classes)
    return names[np.concatenate([model.predict(moments.standardise(block)) for block in test])]
