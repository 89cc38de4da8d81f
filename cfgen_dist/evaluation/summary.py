"""From the scores of all sets to what the report says: means and spreads, verdicts, and what was subsampled."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.catalogue import metrics_of, scorers_of
from cfgen_dist.evaluation.metrics.metric import Metric, Values
from cfgen_dist.evaluation.score import value_of_real
from cfgen_dist.evaluation.selection import Lacking
from cfgen_dist.evaluation.verdict import VERDICTS, judge, sees_absence
from data_loaders.types import Array

# `generated`, `floor`, `control`, `ceiling` → what `score.collect` gave of each set
Scores = Mapping[str, Sequence[tuple[Values, pd.DataFrame]]]


def summarise(scores: Sequence[Values]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each metric over sets.

    Parameters
    ----------
    scores : list of dict of str to float

    Returns
    -------
    dict of str to {"mean": float, "sd": float}
        `sd` divides by n - 1 and is zero for a single set.
    """
    table = pd.DataFrame(scores)
    spread = table.std(ddof=1) if len(table) > 1 else table.mean() * 0.0
    return {name: {"mean": float(table[name].mean()), "sd": float(spread[name])} for name in table}


def summarise_metrics(
    scores: Scores, real: CellSet, metrics: Sequence[Metric], lacking: Lacking
) -> dict[str, dict[str, Any]]:
    """The summary of each metric: generated, floor, control, ceiling, the real value where there is one, the verdict.

    A metric that a type's absence makes wrong (`verdict.sees_absence`) is off when generated sets lack one; `lacks`
    says so.
    """
    summary = {name: summarise([values for values, _ in sets]) for name, sets in scores.items() if sets}
    for name, table in _means_by_type(scores).items():
        for metric in metrics:
            column = metric.name if metric.mean_of_types else metric.key
            if column in table:
                summary[name][metric.key]["sd_types"] = float(table[column].std(ddof=0))
    out = {}
    for metric in metrics:
        row: dict[str, Any] = {name: values[metric.key] for name, values in summary.items()}
        row["real"] = value_of_real(metric, real)
        row["verdict"] = judge(metric, row["generated"], row["floor"], row["real"])
        row["lacks"] = bool(lacking.missing or lacking.thin) and sees_absence(metric)
        if row["lacks"] and np.isfinite(row["floor"]["mean"]):
            row["verdict"] = "off"
        row["words"] = VERDICTS[row["verdict"]]
        out[metric.key] = row
    return out


def summarise_types(
    scores: Scores, in_test: Mapping[str, int], wanted: Mapping[str, int], lacking: Lacking
) -> list[dict[str, Any]]:
    """One dict per type with test cells, the largest first.

    Parameters
    ----------
    scores : dict
        Those of types without a floor among them.
    in_test, wanted : dict of str to int
        Type → test cells; cells of it in each set (those with a floor).
    lacking : Lacking

    Returns
    -------
    list of dict
        `type`, `cells_test`, `cells_set` (wanted in each set), `state` (`compared`, `missing`, `thin`, `no floor`), and
        `generated`, `floor`, `control`, `ceiling`: the mean over sets of each metric of types, None where a set has no
        cells.
    """
    means = _means_by_type(scores)
    states = dict.fromkeys(lacking.missing, "missing") | dict.fromkeys(lacking.thin, "thin")
    states |= dict.fromkeys(lacking.no_floor, "no floor")
    rows = []
    for kind in sorted(filter(in_test.get, in_test), key=lambda kind: (-in_test[kind], kind)):
        row: dict[str, Any] = {"type": kind, "cells_test": in_test[kind], "cells_set": wanted.get(kind, 0)}
        row["state"] = states.get(kind, "compared")
        for name, table in means.items():
            row[name] = table.loc[kind].to_dict() if kind in table.index else None
        rows.append(row)
    return rows


def _means_by_type(scores: Scores) -> dict[str, pd.DataFrame]:
    """The mean over sets of the values of each type, over those sets that have it."""
    tables = {name: [table for _, table in sets] for name, sets in scores.items() if sets}
    return {name: pd.concat(each).groupby(level=0, sort=True).mean() for name, each in tables.items()}


def subsampled(
    real: CellSet, wanted: Mapping[int, int], names: Array, metrics: Sequence[Metric] | None = None
) -> list[str]:
    """What was computed on random cells in place of all, in sentences.

    Parameters
    ----------
    real : CellSet
    wanted : dict of int to int
        Code of a type → cells of it in each set.
    names : array of str (K,)
    metrics : list of Metric, optional
        Those that were computed; by default all of the main modality.
    """
    metrics = metrics_of() if metrics is None else metrics
    cells = {
        "types": {names[code]: max(n, int(real.cells[code])) for code, n in wanted.items()},
        "all": {"all cells": max(len(real), sum(wanted.values()))},
        "test": {"all cells": len(real)},
    }
    notes = []
    for scorer in scorers_of(metrics).values():
        for limit in scorer.limits:
            above = [name for of in limit.of for name, n in cells[of].items() if n > limit.cells]
            notes += [f"{limit.sentence}: {', '.join(above)}."] if above else []
    return notes


def plain(value: Any) -> Any:
    """The same as JSON values: NumPy numbers become Python's, NaN becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
