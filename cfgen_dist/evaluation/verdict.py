"""The verdict: how far each value is from its floor, in a word, and all of them in sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.metric import Metric
from cfgen_dist.evaluation.selection import Lacking

NAMED = 8  # types named in a sentence, at most
VERDICTS = {"at": "at the floor", "near": "near the floor", "off": "off the floor", "none": "not measured"}


def judge(metric: Metric, generated: Mapping[str, float], floor: Mapping[str, float], real: float | None = None) -> str:
    """Compare a value with its floor.

    Parameters
    ----------
    metric : Metric
    generated, floor : {"mean": float, "sd": float}
    real : float, optional
        Value of the real test cells, for `better="equal"`; without it such a metric is best where it equals the floor.

    Returns
    -------
    str
        `at`: worse than the floor by no more than their spreads over sets, or half of `near`, by which real cells may
        differ from the floor; `near`: by no more than `metric.near`; `off`: by more; `none`: one of them could not be
        measured.
    """
    worse, spread = distance(metric, generated, floor, real)
    if not math.isfinite(worse):
        return "none"
    near = metric.near * abs(floor["mean"]) if metric.relative else metric.near
    if worse <= max(spread, near / 2):
        return "at"
    return "near" if worse <= near else "off"


def distance(
    metric: Metric, generated: Mapping[str, float], floor: Mapping[str, float], real: float | None = None
) -> tuple[float, float]:
    """How much worse a value is than its floor (negative: better; NaN: not measured), and the spread of both over sets.

    Parameters
    ----------
    metric, generated, floor, real
        As in `judge`.
    """
    value, best = generated["mean"], floor["mean"]
    if metric.better == "equal" and real is not None:
        worse = abs(value - real) - abs(best - real)
    elif metric.better == "equal":
        worse = abs(value - best)
    else:
        worse = best - value if metric.better == "higher" else value - best
    return worse, math.hypot(*(s if math.isfinite(s) else 0.0 for s in (generated["sd"], floor["sd"])))


def needs_types(metric: Metric) -> bool:
    """Whether a metric has no meaning for cells without types."""
    return metric.group == "types" or metric.scorer.needs == "labels" or metric.key == "correlation_error"


def sees_absence(metric: Metric) -> bool:
    """Whether a type that was not generated makes a metric wrong, whatever the cells of the other types score.

    These are the metrics of types one by one, of the mixture of all cells, and of how much of the real cells was
    reached. The others compare what is there (precision, density) or see by their value what is not (classifiers,
    counts).
    """
    return needs_types(metric) or metric.group == "overall" or metric.key in ("recall", "coverage")


def sentences(
    metrics: Mapping[str, Mapping[str, Any]], lacking: Lacking | None = None,
    by_attribute: Sequence[Mapping[str, Any]] = (),
) -> list[str]:  # fmt: skip
    """The verdict in words.

    Parameters
    ----------
    metrics : dict
        Metric key → {"generated", "floor": {"mean"}, "verdict"}.
    lacking : Lacking, optional
    by_attribute : list of dict
        What `score_attributes` gives.

    Returns
    -------
    list of str
        The overall sentence, which names what generated sets lack, then one per group with the values of what is not at
        the floor, then what has no floor, then one for each other label.
    """
    count = {verdict: sum(row["verdict"] == verdict for row in metrics.values()) for verdict in ("at", "near", "off")}
    lines = [
        f"Of {sum(count.values())} measures, "
        f"{count['at']} are at the floor, {count['near']} near it, {count['off']} off it"
        f"{'' if lacking is None else _of_absence(lacking)}{_of_groups(by_attribute)}."
    ]
    rows = [metric for metric in catalogue.METRICS if metric.key in metrics]
    for group, title in catalogue.GROUPS.items():
        parts = []
        for verdict in ("at", "near", "off"):
            values = [
                _with_values(metrics[metric.key].get("title", metric.title), metrics[metric.key])
                for metric in rows
                if metric.group == group and metrics[metric.key]["verdict"] == verdict
            ]
            if values:
                parts.append(f"{VERDICTS[verdict]}: {', '.join(values)}")
        if parts:
            lines.append(f"{title}: " + "; ".join(parts) + ".")
    if lacking is not None and lacking.no_floor:
        lines.append(f"Without training cells, so without a floor and a verdict: {in_short(lacking.no_floor)}.")
    return lines + [found["verdict"] for found in by_attribute]


def _of_groups(by_attribute: Sequence[Mapping[str, Any]]) -> str:
    """What the first sentence says of groups by other labels: of those that are off."""
    verdicts = [row["verdict"] for found in by_attribute for row in found["groups"]]
    n = verdicts.count("off")
    return f"; {n} of {len(verdicts)} groups by other labels {'is' if n == 1 else 'are'} off theirs" if n else ""


def _of_absence(lacking: Lacking) -> str:
    """What the first sentence says of types that were not generated, or hardly."""
    thin = [f"{name} ({have:,} of {wanted:,} cells)" for name, (have, wanted) in lacking.thin.items()]
    found = [(lacking.missing, "missing"), (thin, "thin")]
    parts = [
        f"{len(names)} of {lacking.n_types} types {'is' if len(names) == 1 else 'are'} {what}: {in_short(names)}"
        for names, what in found
        if names
    ]
    return "; ".join(["", *parts])


def in_short(names: Sequence[str]) -> str:
    """Names in a row, of many the first ones."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _with_values(title: str, row: Mapping[str, Any]) -> str:
    return f"{title} {number(row['generated']['mean'])} ({number(row['floor']['mean'])})"


def number(value: float | None) -> str:
    """A number with three significant digits; a dash for one that was not measured."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.01 else f"{value:#.3g}"
