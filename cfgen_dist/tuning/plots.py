"""Figures of a search: how trials went, which settings they had, which settings mattered."""

import base64
import io
import math
import warnings
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

from cfgen_dist.tuning.distributions import Choice, Keys, Range
from cfgen_dist.tuning.records import Report, TrialRecord
from data_loaders.types import Floats

BEST, BASE, OTHER, INK = "#d55e00", "#111111", "#9fb3c4", "#1c2530"
FEWEST = 4  # trials with an objective, for importances


def short(key: str) -> str:
    """A dotted key without its group."""
    return key.partition(".")[2]


def curves(reports: dict[int, list[Report]], best: int, label: str, step_label: str) -> str:
    """Objective of every trial as it went.

    Parameters
    ----------
    reports : dict of int to list of dict
        Trial number → its reports.
    best : int
        Number of the best trial; 0 is the base.
    label, step_label : str
        Of the axes.

    Returns
    -------
    str
        PNG, base64.
    """
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    finals = [items[-1]["objective"] for items in reports.values() if items]
    for number, items in reports.items():
        by_step = {item["step"]: item["objective"] for item in items}  # a step repeated after a kill counts once
        colour, width, over, name = _style(number, best)
        axes.plot(list(by_step), list(by_step.values()), color=colour, lw=width, zorder=over, label=name, marker=".")
    if finals:
        lowest = min(item["objective"] for items in reports.values() for item in items)  # not always where a trial ends
        spread = max(np.quantile(finals, 0.75) - lowest, 1e-3 * abs(lowest))
        axes.set_ylim(lowest - 0.3 * spread, np.quantile(finals, 0.75) + 2.5 * spread)
    axes.set(xlabel=step_label, ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def parallel_coordinates(records: list[TrialRecord], keys: Keys, best: int, label: str) -> str:
    """One line a trial through its settings to its objective.

    Parameters
    ----------
    records : list of TrialRecord
        Trials with an objective.
    keys : dict
        Dotted key → distribution.
    best : int
    label : str
        Of the objective.

    Returns
    -------
    str
        PNG, base64.
    """
    figure = Figure(figsize=(max(6.0, 1.15 * (len(keys) + 1)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    objective = np.array([record["objective"] for record in records])
    columns = [_positions([record["values"][key] for record in records], d) for key, d in keys.items()]
    low, high = objective.min(), np.quantile(objective, 0.9)
    high = high if high > low else low + 1e-9
    columns.append((np.clip((objective - low) / (high - low), 0, 1.06), [(0, f"{low:.5g}"), (1, f"{high:.5g}")]))
    lines = np.stack([positions for positions, _ in columns], axis=1)
    map_ = matplotlib.colormaps["viridis"]
    norm = Normalize(low, high)
    for i in np.argsort(-objective):
        colour, width, over, name = _style(records[i]["number"], best)
        plain = colour == OTHER
        points = np.column_stack([np.arange(lines.shape[1]), lines[i]])
        shade = map_(0.85 * float(norm(objective[i]))) if plain else colour  # not the faint end
        style = "solid" if records[i]["status"] == "done" else "dotted"
        axes.add_collection(LineCollection([points], colors=[shade], lw=width, ls=style, zorder=over, label=name))
    for x, (_, ticks) in enumerate(columns):
        axes.axvline(x, color="#c5ced8", lw=0.8, zorder=0)
        for y, text in ticks:
            place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "zorder": 9}
            box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.75}
            axes.annotate(text, (x, y), (4, 0), fontsize=7.5, color=INK, bbox=box, **place)
    axes.set_xticks(range(len(columns)), [*(short(key) for key in keys), label], rotation=25, ha="right", fontsize=8.5)
    axes.set(xlim=(-0.1, len(columns) - 0.5), ylim=(-0.07, 1.12), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    return _png(figure)


def importances(records: list[TrialRecord], keys: Keys, seed: int = 0) -> dict[str, float]:
    """How much each setting mattered: permutation importance in a random forest fitted to the trials.

    The forest predicts the objective of each trial from its settings; the importance of one is by how much its error
    grows when that setting is shuffled among the trials (Breiman 2001, section 10), as a share of all. With few trials
    it is a hint, no more.

    Returns
    -------
    dict of str to float
        Dotted key → share, largest first; empty for fewer than four trials.
    """
    if len(records) < FEWEST or not keys:
        return {}
    features = np.column_stack([_positions([r["values"][key] for r in records], d)[0] for key, d in keys.items()])
    objective = np.array([record["objective"] for record in records])
    objective = np.minimum(objective, np.quantile(objective, 0.9))  # a trial gone wrong says little of the others
    forest = RandomForestRegressor(300, random_state=seed).fit(features, objective)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = permutation_importance(forest, features, objective, n_repeats=20, random_state=seed).importances_mean
    found = np.maximum(found, 0)
    shares = found / found.sum() if found.sum() else found
    return dict(sorted(zip(keys, shares.tolist(), strict=True), key=lambda item: -item[1]))


def importance_bars(shares: dict[str, float]) -> str:
    """The importances as bars; PNG, base64."""
    figure = Figure(figsize=(6.2, 0.9 + 0.28 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    names = [short(key) for key in shares]
    axes.barh(names, list(shares.values()), color="#0072b2", height=0.65)
    for y, value in enumerate(shares.values()):
        axes.annotate(f"{value:.0%}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of the importance", xlim=(0, max([*shares.values(), 0.01]) * 1.15))
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _positions(values: list[Any], distribution: Choice | Range) -> tuple[Floats, list[tuple[float, str]]]:
    """Places of values on an axis from 0 to 1, and its ticks (place, text)."""
    if isinstance(distribution, Choice):
        options = list(distribution.values)
        options += [value for i, value in enumerate(values) if value not in options and value not in values[:i]]
        place = {repr(value): i / max(len(options) - 1, 1) for i, value in enumerate(options)}
        ticks = [(place[repr(value)], _text(value)) for value in options]
        return np.array([place[repr(value)] for value in values]), ticks
    scale = math.log if distribution.log else float
    # the base's own value may lie outside, and be zero where the axis is logarithmic
    inside = [max(value, 1e-12) if distribution.log else value for value in values]
    low, high = scale(min(distribution.low, *inside)), scale(max(distribution.high, *inside))
    ends: list[tuple[float, str]] = [
        (0, _text(math.exp(low) if distribution.log else low)),
        (1, _text(math.exp(high) if distribution.log else high)),
    ]
    return np.array([(scale(value) - low) / (high - low) for value in inside]), ends


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _style(number: int, best: int) -> tuple[str, float, int, str | None]:
    if number == best:
        return BEST, 2.4, 6, f"best, trial {number}" + (", the base" if number == 0 else "")
    if number == 0:
        return BASE, 2.0, 5, "the base, trial 0"
    return OTHER, 1.1, 2, None


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130)
    return base64.b64encode(buffer.getvalue()).decode()
