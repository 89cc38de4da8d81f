"""The scores of cells by other labels than their type: each group beside its floor and its control."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from cfgen_dist.evaluation.attributes import FEWEST_CELLS, Grouping
from cfgen_dist.evaluation.control import is_written, write_control
from cfgen_dist.evaluation.groups import Running, score_apart
from cfgen_dist.evaluation.metrics.catalogue import metrics_of
from cfgen_dist.evaluation.metrics.metric import Metric
from cfgen_dist.evaluation.selection import is_thin
from cfgen_dist.evaluation.sources import Cells, open_cells
from cfgen_dist.evaluation.verdict import in_short, judge
from data_loaders.types import Ints

DOUBT = 2.0  # groups are small, so spreads over sets and tolerances count so many times
NOISY = ("fold_top",)  # a list of the first genes of a group of few cells is noise
MISSING = {"mean": float("nan"), "sd": 0.0}
WORST = ("none", "at", "near", "off")


def group_metrics() -> list[Metric]:
    """The metrics of groups: those that are means over types, a group in place of a type, but `NOISY` ones."""
    return [
        metric
        for metric in metrics_of()
        if metric.mean_of_types and metric.scorer.needs in ("points", "types") and metric.key not in NOISY
    ]


def score_attributes(
    groupings: Sequence[Grouping], real: Cells, train: Ints, seed: int, running: Running, control: bool
) -> list[dict[str, Any]]:
    """Score the groups of each label and combination.

    Parameters
    ----------
    groupings : list of Grouping
    real : Cells
    train : int array
        Rows of the training cells.
    seed : int
    running : Running
    control : bool
        Also score one set whose genes were drawn independently inside each group and type.

    Returns
    -------
    list of dict
        `by` (labels), `n_groups`, `groups`: a list of dicts with `group` (names), `cells_set`, `cells_generated`,
        `state` (`compared`, `missing`, `thin`), `verdict` and `metrics` {name: {"generated", "floor", "control":
        {"mean", "sd"}, "verdict"}}; and `verdict`, a sentence.
    """
    found = []
    for number, grouping in enumerate(groupings):
        scored = _score(number, grouping, real, train, seed, running, control) if grouping.names else {}
        rows = _groups(grouping, scored)
        row = {"by": list(grouping.by), "n_groups": grouping.n_groups, "groups": rows}
        found.append(row | {"verdict": _sentence(grouping, rows)})
    return found


def _score(
    number: int, grouping: Grouping, real: Cells, train: Ints, seed: int, running: Running, control: bool
) -> dict[str, list[pd.DataFrame]]:
    """`generated`, `floor`, `control` → the tables of the groups of each set; empty when nothing was generated."""
    if not any(name.startswith("generated") for name in grouping.rows):
        return {}
    rows, groups, source_of = dict(grouping.rows), dict(grouping.groups), dict(grouping.source_of)
    more = []
    if control:
        path = str(running.work.folder / f"control-of-groups-{number}.zarr")
        if not is_written(path):
            write_control(path, real, train, grouping.wanted_strata, seed, number, grouping.strata)
        drawn = open_cells(path, real.label)
        pooled = running.work.sources[0].pooled
        more.append((drawn.without_types() if pooled else drawn.with_types_of(real), path))
        sizes = sorted(grouping.wanted_strata.items())
        rows["control-0"], source_of["control-0"] = np.arange(len(drawn)), len(running.work.sources)
        groups["control-0"] = np.repeat([s // grouping.n_types for s, _ in sizes], [n for _, n in sizes])
    names = np.array([str(k) for k in range(len(grouping.names))])
    scored = score_apart(running, f"groups-{number}", rows, source_of, names, group_metrics(), groups, more)
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, (_, table) in scored.items():
        tables.setdefault(name.rpartition("-")[0], []).append(table)
    return tables


def _groups(grouping: Grouping, scored: Mapping[str, list[pd.DataFrame]]) -> list[dict[str, Any]]:
    """What is said of each group.

    The spread of a few sets of one group says little, so no group's is taken for less than that of all groups together
    (root mean square).
    """
    names = [str(number) for number in range(len(grouping.names))]
    metrics: list[dict[str, Any]] = [{} for _ in names]
    for metric in group_metrics():
        sides = {side: [_summary(tables, name, metric) for name in names] for side, tables in scored.items()}
        spread = {side: float(np.sqrt(np.mean([each["sd"] ** 2 for each in found]))) for side, found in sides.items()}
        for number in range(len(names)):
            row: dict[str, Any] = {side: found[number] for side, found in sides.items()}
            made, floor = (
                {"mean": found["mean"], "sd": DOUBT * max(found["sd"], spread.get(side, 0.0))}
                for side, found in ((side, row.get(side, MISSING)) for side in ("generated", "floor"))
            )
            lenient = replace(metric, near=DOUBT * metric.near)
            metrics[number][metric.key] = row | {"verdict": judge(lenient, made, floor)}
    rows = []
    for number, group in enumerate(grouping.names):
        have, wanted = int(grouping.have[number]), int(grouping.wanted[number])
        state = "missing" if not have else "thin" if is_thin(have, wanted) else "compared"
        worst = max((row["verdict"] for row in metrics[number].values()), key=WORST.index)
        rows.append({
            "group": list(group), "cells_set": wanted, "cells_generated": have, "state": state,
            "verdict": worst if state == "compared" else "off", "metrics": metrics[number],
        })  # fmt: skip
    return rows


def _summary(tables: Sequence[pd.DataFrame], name: str, metric: Metric) -> dict[str, float]:
    """Mean and standard deviation over the sets that have the group."""
    values = [float(table.loc[name, metric.name]) for table in tables if name in table.index]
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return MISSING
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else 0.0}


def _sentence(grouping: Grouping, rows: Sequence[Mapping[str, Any]]) -> str:
    """The groups of a label in a sentence: how many are off, and which."""
    title = f"By {' and '.join(grouping.by)}"
    if not rows:
        return f"{title}: no group has {FEWEST_CELLS} test and training cells of the same types, so there is no floor."
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in WORST}
    few = f" of {grouping.n_groups:,}" if grouping.n_groups > len(rows) else ""
    text = (
        f"{title}: {len(rows)}{few} groups, {count['at']} at their floor, {count['near']} near it, "
        f"{count['off']} off it"
    )
    named = [
        " / ".join(row["group"]) + ("" if row["state"] == "compared" else f" ({row['state']})")
        for row in rows
        if row["verdict"] == "off"
    ]
    return text + (f": {in_short(named)}." if named else ".")
