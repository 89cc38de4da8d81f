"""Do generated cells land among real cells of their type? A 10-NN classifier, fitted on the test cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluation.metrics.distances import subsample
from cfgen_dist.evaluation.metrics.metric import Measured

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import CellSet
    from data_loaders.types import Array, Floats, Ints

NEIGHBOURS = 10
FITTED_CELLS = 100_000  # test cells that the classifier is fitted on, at most
CLASSIFIED_CELLS = 2000  # cells of a type that are classified, at most


def neighbours(real: CellSet, scored: CellSet, rng: np.random.Generator) -> Measured:
    """F1 of the classifier: of each type of the scored cells, and the mean over all types of the real cells.

    A type that the scored cells lack counts as 0; one that the real cells lack is not asked for.
    """
    kinds, truth, weight, found = _classify(real, scored, rng)
    by_type = _f1(truth, found, weight, average=None, labels=kinds)
    overall = _f1(truth, found, weight, average="macro", labels=np.flatnonzero(real.cells))
    return _measured(float(overall), by_type.tolist())


def neighbours_inside_types(real: CellSet, scored: CellSet, rng: np.random.Generator) -> Measured:
    """As `neighbours`, but as the paper's tables were made: computed inside each single type, and their mean."""
    kinds, truth, weight, found = _classify(real, scored, rng)
    inside = [truth == code for code in kinds]
    by_type = [float(_f1(truth[rows], found[rows], weight[rows], average="macro")) for rows in inside]
    return _measured(float(np.sum(by_type) / np.count_nonzero(real.cells)), by_type)


def _classify(real: CellSet, scored: CellSet, rng: np.random.Generator) -> tuple[Ints, Ints, Floats, Ints]:
    """The types of the scored cells; of the cells that were classified, true type, weight and the type found.

    Of a type with more than `CLASSIFIED_CELLS` cells so many are classified, and count for all of them.
    """
    fitted = subsample(np.arange(len(real)), FITTED_CELLS, rng)
    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(fitted))).fit(real.points(fitted)[:], real.codes[fitted])
    kinds = np.flatnonzero(scored.cells)
    chosen = [subsample(scored.of_type(code), CLASSIFIED_CELLS, rng) for code in kinds]
    sizes = np.array([len(positions) for positions in chosen])
    truth, weight = np.repeat(kinds, sizes), np.repeat(scored.cells[kinds] / sizes, sizes)
    return kinds, truth, weight, classifier.predict(scored.points(np.concatenate(chosen))[:])


def _f1(truth: Ints, found: Ints, weight: Floats, **options: Any) -> Array:
    return f1_score(truth, found, sample_weight=weight, zero_division=0, **options)


def _measured(overall: float, by_type: list[float]) -> Measured:
    return Measured({"knn_f1": overall}, [{"knn_f1": value} for value in by_type])
