"""The scores of one set of cells against the test cells: the catalogue's scorers are run, and their values collected.

`measure` runs one scorer. Each draws its own random numbers, so that it does not matter where and in what order they
run. `collect` adds what the profiles say and picks the value of each metric.
"""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.catalogue import metrics_of, scorers_of
from cfgen_dist.evaluation.metrics.metric import Measured, Metric, Scorer, Values
from data_loaders.seeds import Evaluation, generator
from data_loaders.types import Array

PURPOSES = {"distances": Evaluation.DISTANCES, "structure": Evaluation.STRUCTURE, "neighbours": Evaluation.CLASSIFY}

OF_SUMS = ("profile", "types", "labels")


def pieces_of(metrics: Iterable[Metric]) -> list[Scorer]:
    """The scorers that are work for a worker: all but those of sums, which `collect` runs itself."""
    return [scorer for scorer in scorers_of(metrics).values() if scorer.needs not in OF_SUMS]


def measure(
    scorer: Scorer, real: CellSet, scored: CellSet, *, protocol: str, seed: int, draw: int,
    matched: CellSet | None = None, whole: bool = True,
) -> Measured:  # fmt: skip
    """Run a scorer on one set of cells.

    Parameters
    ----------
    scorer : Scorer
        One of `pieces_of`.
    real, scored : CellSet
        The test cells, and the set.
    protocol : {"centred", "paper"}
    seed, draw : int
        `draw` is the number of the set.
    matched : CellSet, optional
        Test cells of the composition of the set, for what looks at all cells at once, where `real` has another.
    whole : bool
        Whether distances are computed over all cells too.
    """
    matched = real if matched is None else matched
    function = scorer.paper if protocol == "paper" and scorer.paper else scorer.function
    rng = generator(seed, _purpose_of(scorer), draw)
    if scorer.needs == "points":
        by_type = [function(real.cloud(code), scored.cloud(code), rng) for code in np.flatnonzero(scored.cells)]
        types = [_named(values, scorer) for values in by_type]
        if not whole:
            return Measured(dict.fromkeys(types[0], float("nan")), types)
        return Measured(_named(function(matched.cloud(), scored.cloud(), rng), scorer), types)
    found = function(matched if scorer.needs == "counts" else real, scored, rng)
    return found if isinstance(found, Measured) else Measured(_named(found, scorer), [])


def collect(
    measured: Mapping[str, Measured], real: CellSet, scored: CellSet, names: Array, metrics: Iterable[Metric],
    matched: CellSet | None = None,
) -> tuple[Values, pd.DataFrame]:  # fmt: skip
    """The metrics of a set, overall and per type.

    Parameters
    ----------
    measured : dict of str to Measured
        Of each scorer of `pieces_of(metrics)`, by name.
    real, scored : CellSet
        Of which the sums are used.
    names : array of str (K,)
        Of the types.
    metrics : iterable of Metric
        Those that are wanted.
    matched : CellSet, optional
        As in `measure`.

    Returns
    -------
    metrics : dict of str to float
    types : pandas.DataFrame
        See `Reference.compare`.
    """
    metrics = list(metrics)
    kinds = np.flatnonzero(scored.cells)
    types = pd.DataFrame({"cells": scored.cells[kinds]}, index=names[kinds].tolist())
    of_sums = [scorer for scorer in scorers_of(metrics).values() if scorer.needs in OF_SUMS]
    all_measured = dict(measured) | {scorer.name: _of_sums(scorer, real, scored, matched) for scorer in of_sums}
    for found in all_measured.values():
        if found.types:
            types = types.join(pd.DataFrame(found.types, index=types.index))
    overall = {name: found.overall for name, found in all_measured.items()}
    values = {}
    for metric in metrics:
        of_set = overall[metric.scorer.name]
        values[metric.key] = float(types[metric.name].mean()) if metric.mean_of_types else of_set[metric.name]
    return values, types


def _of_sums(scorer: Scorer, real: CellSet, scored: CellSet, matched: CellSet | None) -> Measured:
    if matched is not None and scorer.needs != "labels":
        real = matched
    found = scorer.function(*((real.profile, scored.profile) if scorer.needs == "profile" else (real, scored)))
    return found if isinstance(found, Measured) else Measured(_named(found, scorer), [])


def value_of_real(metric: Metric, real: CellSet) -> float | None:
    """What the real test cells themselves score, of a metric that is best where it equals that; else None."""
    if metric.better != "equal" or metric.scorer.needs != "profile":
        return None
    return _named(metric.scorer.function(real.profile, real.profile), metric.scorer)[metric.name]


def values_of_real(real: CellSet) -> dict[str, float | None]:
    """`value_of_real` of every row of the catalogue for log-normalised counts, by key."""
    return {metric.key: value_of_real(metric, real) for metric in metrics_of()}


def _named(found: float | Values | Measured, scorer: Scorer) -> Values:
    """The values of a scorer by name; a single one is named after its function."""
    if isinstance(found, Measured):
        return found.overall
    return found if isinstance(found, dict) else {scorer.name: float(found)}


def _purpose_of(scorer: Scorer) -> int:
    """The purpose of a scorer's random draws: of one that the table of seeds does not list, a number of its name."""
    return PURPOSES.get(scorer.name, zlib.crc32(scorer.name.encode()))
