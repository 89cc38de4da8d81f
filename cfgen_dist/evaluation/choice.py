"""Which of several sets of generated cells is best: how far each is from the floor, in one unit for all measures.

A distance alone (W2, MMD) rewards cells that gather in the middle of their type. So every row of the catalogue counts
here, the structure of genes too. Each is put into the same unit: by how much it is worse than the floor, over the
floor's own spread. The worst of them is what a choice is judged by, and their mean decides between equals.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.metric import Metric, Values
from data_loaders.errors import BadInput

SMALLEST_UNIT = 10  # a unit is at least the tolerance over this, which counts as at the floor in any case

# Guidance buys shorter distances with these: what a choice may cost of them, at most.
MOST_LOST = {"correlation_error": 0.05, "coverage": 0.02}


@dataclass(frozen=True)
class Floor:
    """What real cells score in place of generated ones.

    Attributes
    ----------
    mean, sd : dict of str to float
        Of each measure over sets, by key; `sd` divides by n - 1 and is zero for a single set.
    real : dict of str to float
        What the compared cells themselves score, of the measures that are best where they equal that.
    """

    mean: Values
    sd: Values
    real: Values

    @classmethod
    def of(cls, sets: Sequence[Mapping[str, float]], real: Mapping[str, float | None]) -> Self:
        """The floor that some sets of real cells make.

        Parameters
        ----------
        sets : list of dict of str to float
            Metrics of each set, by key.
        real : dict of str to (float or None)

        Raises
        ------
        BadInput
            No measure has a value in all sets: the cells are too few to compare anything.
        """
        keys = [metric.key for metric in catalogue.METRICS if sets and metric.key in sets[0]]
        values = {key: np.array([scores[key] for scores in sets]) for key in keys}
        mean = {key: float(found.mean()) for key, found in values.items() if np.isfinite(found).all()}
        if not mean:
            raise BadInput("floor: no measure of the real cells is a number; expected more real cells to compare with")
        sd = {key: float(values[key].std(ddof=1)) if len(sets) > 1 else 0.0 for key in mean}
        return cls(mean, sd, {key: value for key, value in real.items() if value is not None})

    def unit(self, metric: Metric) -> float:
        """What one unit of a measure is: the floor's spread over sets, or a tenth of the tolerance if that is more."""
        mean = self.mean[metric.key]
        tolerance = metric.near * abs(mean) if metric.relative else metric.near
        return max(self.sd[metric.key], tolerance / SMALLEST_UNIT, 1e-12)

    def distances(self, scores: Mapping[str, float]) -> Values:
        """How far cells are from the floor, in units.

        Parameters
        ----------
        scores : dict of str to float
            Metrics of the cells, by key.

        Returns
        -------
        dict of str to float
            Key → (worse by) / (unit), of every row of the catalogue that the floor has. 0 where the cells are no worse
            than the floor: to be better than real cells is no merit. Infinite where they have no value.
        """
        rows = [metric for metric in catalogue.METRICS if metric.key in self.mean]
        return {metric.key: self._distance(metric, scores.get(metric.key, math.nan)) for metric in rows}

    def _distance(self, metric: Metric, value: float) -> float:
        if not math.isfinite(value):
            return math.inf
        best = self.mean[metric.key]
        if metric.better == "equal":  # to the compared cells where they have a value themselves, else to the floor
            ideal = self.real.get(metric.key, best)
            value, best = abs(value - ideal), abs(best - ideal)
        worse = best - value if metric.better == "higher" else value - best
        return max(0.0, worse) / self.unit(metric)


@dataclass(frozen=True)
class Standing:
    """Where some sets of cells from one source stand.

    Attributes
    ----------
    distances : dict of str to float
        Of the means over sets, by key, in units; see `Floor.distances`.
    worst : float
        The largest of them.
    worst_measure : str
        Its key.
    average : float
        Their mean.
    worst_error, average_error : float
        Standard errors of the two over sets; zero for a single set.
    """

    distances: Values
    worst: float
    worst_measure: str
    average: float
    worst_error: float
    average_error: float

    @classmethod
    def of(cls, sets: Sequence[Mapping[str, float]], floor: Floor) -> Self:
        """Compare sets of cells with the floor.

        Parameters
        ----------
        sets : list of dict of str to float
            Metrics of each set, by key.
        floor : Floor
        """
        distances = floor.distances({key: float(np.mean([scores[key] for scores in sets])) for key in sets[0]})
        worst_measure = max(distances, key=distances.__getitem__)
        of_sets = [floor.distances(scores) for scores in sets]
        worst = [found[worst_measure] for found in of_sets]
        averages = [float(np.mean([*found.values()])) for found in of_sets]
        average = float(np.mean([*distances.values()]))
        return cls(
            distances, distances[worst_measure], worst_measure, average, standard_error(worst), standard_error(averages)
        )


def standard_error(values: Sequence[float]) -> float:
    """Standard error of a mean; zero for a single value, or where values are infinite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return 0.0
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def nearest_to_floor(standings: Iterable[Standing]) -> list[int]:
    """Numbers of the best of several, those that chance does not tell apart, in their order.

    The lowest worst distance, and what is within its standard error; of these the lowest mean distance, and what is
    within its standard error.
    """
    found = list(standings)
    first = min(found, key=lambda each: each.worst)
    close = [i for i, each in enumerate(found) if each.worst <= first.worst + first.worst_error]
    second = min((found[i] for i in close), key=lambda each: each.average)
    return [i for i in close if found[i].average <= second.average + second.average_error]


def keeps_structure(scores: Mapping[str, Any], faithful: Mapping[str, Any]) -> bool:
    """Whether cells are worse than those of the faithful guidance by no more than `MOST_LOST`.

    Parameters
    ----------
    scores, faithful : dict
        Metrics by key; one that is missing or no number decides nothing.
    """
    for key, most in MOST_LOST.items():
        lost = scores.get(key, math.nan) - faithful.get(key, math.nan)
        if (-lost if _row(key).better == "higher" else lost) > most:
            return False
    return True


def title_of(key: str) -> str:
    """What a measure is called in reports."""
    return _row(key).title


def _row(key: str) -> Metric:
    return next(metric for metric in catalogue.METRICS if metric.key == key)
