"""From the scores of all sets to what the report says: means and spreads, verdicts, and what was subsampled."""

import numpy as np
import pandas as pd

from cfgen_dist.evaluation.metrics.catalogue import METRICS, VERDICTS, judge
from cfgen_dist.evaluation.metrics.distances import KERNEL_CELLS, TRANSPORT_CELLS, TRANSPORT_REPEATS
from cfgen_dist.evaluation.metrics.structure import CELLS as STRUCTURE_CELLS
from cfgen_dist.evaluation.metrics.structure import CORRELATION_LIMIT
from cfgen_dist.evaluation.score import CLASSIFIED_CELLS, FITTED_CELLS


def summarise(scores):
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


def summarise_metrics(scores, real):
    """The summary of each metric: generated, floor and control, the real value where there is one, the verdict."""
    best = {"zeros": real.profile.zeros}
    summary = {name: summarise([values for values, _ in sets]) for name, sets in scores.items() if sets}
    for name, sets in scores.items():
        if sets:
            by_type = sum(table for _, table in sets) / len(sets)
            for metric in summary[name].keys() & set(by_type.columns):
                summary[name][metric]["sd_types"] = float(by_type[metric].std(ddof=0))
    out = {}
    for metric in METRICS:
        row = {name: values[metric.key] for name, values in summary.items()}
        row["real"] = best.get(metric.key)
        row["verdict"] = judge(metric, row["generated"], row["floor"], row["real"])
        row["words"] = VERDICTS[row["verdict"]]
        out[metric.key] = row
    return out


def summarise_types(scores, real, names):
    """One dict per type: test cells, cells per set, and the mean over sets of each of its metrics."""
    means = {name: sum(table for _, table in sets) / len(sets) for name, sets in scores.items() if sets}
    in_test = dict(zip(names.tolist(), real.cells.tolist(), strict=True))
    rows = []
    for kind in sorted(filter(in_test.get, in_test), key=lambda kind: (-in_test[kind], kind)):
        row = {"type": kind, "cells_test": in_test[kind]}
        for name, table in means.items():
            row[name] = table.loc[kind].to_dict() if kind in table.index else None
        rows.append(row)
    return rows


def subsampled(real, wanted, names):
    """What was computed on random cells in place of all, in sentences.

    Parameters
    ----------
    real : CellSet
    wanted : dict of int to int
        Code of a type → cells of it in each set.
    names : array of str (K,)
    """
    largest = {names[code]: max(n, int(real.cells[code])) for code, n in wanted.items()}
    everything = {"all cells": max(len(real), sum(wanted.values()))}
    by_type_and_over_all = largest | everything
    listed = (
        (
            by_type_and_over_all, TRANSPORT_CELLS,
            f"Transport was computed on {TRANSPORT_REPEATS} random subsamples of {TRANSPORT_CELLS:,} cells a side",
        ),
        (by_type_and_over_all, KERNEL_CELLS, f"RBF MMD was computed on {KERNEL_CELLS:,} random cells a side"),
        (
            everything, STRUCTURE_CELLS,
            "Classifier AUC, precision, recall, density and coverage were computed on "
            f"{STRUCTURE_CELLS:,} random cells a side",
        ),
        (largest, CORRELATION_LIMIT, f"Correlations were computed on {CORRELATION_LIMIT:,} random cells a side"),
        (largest, CLASSIFIED_CELLS, f"The 10-NN classifier was asked about {CLASSIFIED_CELLS:,} random cells"),
        ({"all cells": len(real)}, FITTED_CELLS, f"The 10-NN classifier was fitted on {FITTED_CELLS:,} random cells"),
    )  # fmt: skip
    found = [(what, [name for name, n in sizes.items() if n > limit]) for sizes, limit, what in listed]
    return [f"{what}: {', '.join(kinds)}." for what, kinds in found if kinds]


def plain(value):
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
