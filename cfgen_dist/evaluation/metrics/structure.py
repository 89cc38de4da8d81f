"""Do genes go together as in real cells? A classifier two-sample test, gene-gene correlation and manifold overlap.

Distances between clouds in principal components hardly notice a generator that draws every gene independently inside a
type. The first two metrics here do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from cfgen_dist.evaluation.metrics.distances import subsample
from cfgen_dist.evaluation.spaces.log_normalised import N_PCS, choose_genes, in_memory
from data_loaders.statistics.normalisation import log_normalise

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import CellSet
    from data_loaders.types import Bools, Floats

CELLS = 2000  # of each side, for the classifier and the manifolds
FOLDS = 3
TREES = 100
PENALTY = 1e-3  # `C` of the logistic regression
LINEAR_STEPS = 200  # of it, at most
CORRELATION_GENES = 200  # the most expressed of a type
CORRELATION_CELLS = 40  # a type needs as many real and as many generated cells
CORRELATION_LIMIT = 2000  # cells of a type, each side
HALVINGS = 10
MANIFOLD_NEIGHBOURS = 5


def structure(real: CellSet, generated: CellSet, rng: np.random.Generator) -> dict[str, float]:
    """All metrics of this module, on random cells of fixed number that are read for it.

    Genes and components for the classifier and the manifolds are chosen on real and generated cells together. Chosen on
    the real test cells alone they would fit their noise, and real training cells would stand apart from them: what is
    perfect (AUC 0.5, equal precision and recall) would no longer be the score of perfect cells.

    Parameters
    ----------
    real, generated : CellSet
        Of which `codes` and `read` are used.
    rng : numpy.random.Generator

    Returns
    -------
    dict
        `auc_genes`, `auc_pcs` (see `two_sample_auc`) in gene space and in principal components; `auc_linear` (see
        `linear_auc`) on all genes; `precision`, `recall`, `density`, `coverage` (see `manifold_overlap`);
        `correlation_error`.
    """
    a, b = (cells.read(subsample(np.arange(len(cells.codes)), CELLS, rng)) for cells in (real, generated))
    both = sparse.vstack([a, b], format="csr")
    truth = np.repeat([False, True], [a.shape[0], b.shape[0]])
    genes = choose_genes(both.shape[1], in_memory(both))
    values = log_normalise(both, genes).toarray().astype(np.float32)
    seed = int(rng.integers(2**31))
    n_pcs = min(N_PCS, *(size - 1 for size in values.shape))
    components = PCA(n_pcs, svd_solver="randomized", random_state=seed).fit_transform(values)
    metrics = {"auc_genes": two_sample_auc(values, truth, seed), "auc_pcs": two_sample_auc(components, truth, seed)}
    metrics["auc_linear"] = linear_auc(log_normalise(both), truth, seed)
    metrics |= manifold_overlap(components[~truth], components[truth])
    metrics["correlation_error"] = correlation_error(real, generated, rng)
    return metrics


def two_sample_auc(values: Floats, is_generated: Bools, seed: int) -> float:
    """Held-out AUC of a random forest that tells generated from real cells.

    A forest sees what no linear classifier can, e.g. correlation that is missing while all means are right.

    Parameters
    ----------
    values : array (n, F)
    is_generated : bool array (n,)
    seed : int

    Returns
    -------
    float
        0.5 cannot be told apart, 1 always told apart. NaN with fewer than `FOLDS` cells on a side.
    """
    if min(is_generated.sum(), (~is_generated).sum()) < FOLDS:
        return float("nan")
    half = len(values) * (FOLDS - 1) // FOLDS // 2  # cells a tree sees: as good as all of them, and faster
    forest = RandomForestClassifier(TREES, min_samples_leaf=2, max_samples=half, random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probability = cross_val_predict(forest, values, is_generated, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_generated, probability))


def linear_auc(values: sparse.csr_matrix, is_generated: Bools, seed: int) -> float:
    """Held-out AUC of a logistic regression that tells generated from real cells.

    It adds up what is slightly wrong in very many genes, none of which a tree would pick. Each gene is divided by its
    standard deviation over all cells, and not centred, so that the matrix stays sparse.

    Parameters
    ----------
    values : scipy CSR (n, G)
        Log-normalised counts of all genes.
    is_generated : bool array (n,)
    seed : int

    Returns
    -------
    float
        As `two_sample_auc`.
    """
    if min(is_generated.sum(), (~is_generated).sum()) < FOLDS:
        return float("nan")
    mean, square = (np.asarray(part.mean(axis=0)).ravel() for part in (values, values.multiply(values)))
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    scaled = sparse.csr_matrix(values @ sparse.diags(scale))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    score = np.zeros(len(is_generated))
    for fitted, held_out in folds.split(score, is_generated):
        model = LogisticRegression(C=PENALTY, max_iter=LINEAR_STEPS).fit(scaled[fitted], is_generated[fitted])
        score[held_out] = model.decision_function(scaled[held_out])
    return float(roc_auc_score(is_generated, score))


def correlation_error(real: CellSet, generated: CellSet, rng: np.random.Generator) -> float:
    """How far gene-gene correlations within types are from the real ones, relative to their strength.

    Both sets of a type are halved at random, r1, r2 and g1, g2 being the Pearson correlations of log-normalised
    expression between the type's `CORRELATION_GENES` most expressed genes in each half. Then (g1 - r1)(g2 - r2) is an
    unbiased estimate of the squared difference of the true correlations, because the sampling noise of the halves is
    independent, and r1 r2 one of the squared real correlation. The metric is the ratio of their sums over gene pairs,
    types (weighted by real cells) and halvings: 0 when real correlations are reproduced (noise may make it slightly
    negative), 1 when genes are independent.

    Parameters
    ----------
    real, generated : CellSet
        Of which `codes` and `read` are used; of a type at most `CORRELATION_LIMIT` random cells are read.
    rng : numpy.random.Generator

    Returns
    -------
    float
        NaN when no type has `CORRELATION_CELLS` cells on both sides.
    """
    error = strength = 0.0
    for code in np.unique(real.codes):
        chosen = [np.flatnonzero(cells.codes == code) for cells in (real, generated)]
        if min(map(len, chosen)) < CORRELATION_CELLS:
            continue
        a, b = (
            log_normalise(cells.read(subsample(positions, CORRELATION_LIMIT, rng)))
            for cells, positions in zip((real, generated), chosen, strict=True)
        )
        genes = np.argsort(-np.asarray(a.mean(axis=0)).ravel(), kind="stable")[:CORRELATION_GENES]
        a, b = a[:, genes].toarray(), b[:, genes].toarray()
        for _ in range(HALVINGS):
            (r1, r2), (g1, g2) = _halves(a, rng), _halves(b, rng)
            error += len(a) * float(np.mean((g1 - r1) * (g2 - r2)))
            strength += len(a) * float(np.mean(r1 * r2))
    return error / strength if strength > 0 else float("nan")


def _halves(values: Floats, rng: np.random.Generator) -> list[Floats]:
    """Gene-gene correlations, upper triangle, in two random halves of the cells."""
    order = rng.permutation(len(values))
    return [_correlations(values[half]) for half in np.array_split(order, 2)]


def _correlations(values: Floats) -> Floats:
    """Pearson correlations (pairs,); zero with a gene that does not vary."""
    values = values - values.mean(axis=0)
    length = np.sqrt((values**2).sum(axis=0))
    values = values / np.where(length > 0, length, np.inf)
    return (values.T @ values)[np.triu_indices(values.shape[1], 1)]


def manifold_overlap(real: Floats, generated: Floats) -> dict[str, float]:
    """Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) in principal components.

    Each cell stands for a ball that reaches its 5th nearest neighbour of its own set. precision: share of generated
    cells in some real ball; recall: share of real cells in some generated ball; density: number of real balls around a
    generated cell over 5; coverage: share of real balls with a generated cell in them.

    Parameters
    ----------
    real, generated : float arrays (n, C), (m, C)

    Returns
    -------
    dict
        NaN in all four with fewer than 6 cells on a side.
    """
    names = ("precision", "recall", "density", "coverage")
    if min(len(real), len(generated)) <= MANIFOLD_NEIGHBOURS:
        return dict.fromkeys(names, float("nan"))
    real_radius, generated_radius = _radius(real), _radius(generated)
    distance = cdist(real, generated)
    in_real = distance < real_radius[:, None]
    values = (
        in_real.any(axis=0).mean(),
        (distance < generated_radius).any(axis=1).mean(),
        in_real.sum(axis=0).mean() / MANIFOLD_NEIGHBOURS,
        (distance.min(axis=1) < real_radius).mean(),
    )
    return dict(zip(names, map(float, values), strict=True))


def _radius(cells: Floats) -> Floats:
    """Distance (n,) of each cell to its nearest neighbour number `MANIFOLD_NEIGHBOURS`, itself not counted."""
    return NearestNeighbors(n_neighbors=MANIFOLD_NEIGHBOURS).fit(cells).kneighbors()[0][:, -1]
