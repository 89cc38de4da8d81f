"""The figures of the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.distances import subsample
from data_loaders.errors import BadInput
from data_loaders.storage import Place, place, shown
from data_loaders.types import Array, Floats, Ints, PathLike

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import CellSet
    from cfgen_dist.evaluation.metrics.faithfulness import Profile

Distribution = tuple[Array, Ints]  # values, and how many cells have each
Columns = dict[str, tuple[list[int], list[float]]]  # of a training log: steps and values
Curves = dict[str, Columns]  # of both stages

# Okabe and Ito's palette can be told apart with any colour vision; beyond eight types the marker changes as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#555555")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
REAL, GENERATED, FLOOR = "#0072B2", "#D55E00", "#999999"
FIGURES = ("cells", "mean_variance", "dropout", "zeros", "size_factors", "types", "training")
AXES = {"umap": "UMAP", "pca": "PC"}
LOSSES = {"nll": "Negative log-likelihood of a cell", "loss": "Error of the velocity"}
EMBEDDED_CELLS = 5000
BY_TYPE = ("w2", "knn_f1")  # metrics of the figure of types
DPI = 110
STYLE: Any = {
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "figure.constrained_layout.use": True,
}  # fmt: skip


def draw_figures(
    folder: Path, result: Mapping[str, Any], real: CellSet, shown: CellSet, names: Array, *, embedding: str = "umap",
    curves: Curves | None = None,
) -> list[str]:  # fmt: skip
    """Draw the figures of an evaluation as PNG files.

    Parameters
    ----------
    folder : Path
    result : dict
        As `evaluate` returns it.
    real, shown : CellSet
        The test cells and the first generated set.
    names : array of str (K,)
        Of the types.
    embedding : {"umap", "pca"}
    curves : dict, optional
        As `read_run` returns it.

    Returns
    -------
    list of str
        Those of `FIGURES` that were drawn, `NAME.png` in `folder`.
    """
    with matplotlib.rc_context(STYLE):
        figures = {
            "cells": _cells(real, shown, names, embedding, result["seed"]),
            "mean_variance": _mean_variance(real.profile, shown.profile),
            "dropout": _dropout(real.profile, shown.profile),
            "zeros": _histograms(
                real.profile.zeros_per_cell,
                shown.profile.zeros_per_cell,
                "Share of genes without a count per cell",
                False,
            ),
            "size_factors": _histograms(
                tuple(real.profile.totals), tuple(shown.profile.totals), "Counts per cell (size factors)", True
            ),
        }
        if result["types"]:
            figures["types"] = _types(result)
        if curves is not None:
            figures["training"] = _training(curves)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=DPI)
    return list(figures)


def embed(real: Floats, generated: Floats, kind: str, seed: int) -> tuple[Floats, Floats]:
    """Two coordinates of each cell: UMAP fitted on the real components and applied to the generated, or the first two.

    Parameters
    ----------
    real, generated : float arrays (n, C), (m, C)
    kind : {"umap", "pca"}
    seed : int

    Returns
    -------
    float arrays (n, 2), (m, 2)
    """
    if kind == "pca" or len(real) < 10:
        pad = max(0, 2 - real.shape[1])
        first, second = (np.pad(x, ((0, 0), (0, pad)))[:, :2] for x in (real, generated))
        return first, second
    import torch
    import umap  # slow imports, wanted only here

    threads = torch.get_num_threads()
    try:
        model = umap.UMAP(n_neighbors=min(15, len(real) - 1), min_dist=0.3, random_state=seed, n_jobs=1)
        return model.fit_transform(real), model.transform(generated)
    finally:  # Numba's threads set those of torch too, and with them the last digits of a training that follows
        torch.set_num_threads(threads)


def _cells(real: CellSet, shown: CellSet, names: Array, kind: str, seed: int) -> Figure:
    rng = np.random.default_rng(seed)
    picks = [subsample(np.arange(len(cells)), EMBEDDED_CELLS, rng) for cells in (real, shown)]
    labels = [names[cells.codes[pick]] for cells, pick in zip((real, shown), picks, strict=True)]
    points = embed(real.points(picks[0])[:], shown.points(picks[1])[:], kind, seed)
    kinds = sorted(set(np.concatenate(labels).tolist()), key=lambda kind: -(labels[0] == kind).sum())
    columns = math.ceil(len(kinds) / 16)
    figure = Figure(figsize=(10.8 + 1.7 * columns, 4.4))
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    size = float(np.clip(6000 / max(len(labels[0]), 1), 4, 26))
    style: dict[str, Any]
    style = {name: {"color": PALETTE[i % 8], "marker": MARKERS[i // 8 % 8]} for i, name in enumerate(kinds)}
    for axis, xy, of_cells, title in zip(axes, points, labels, ("Real test cells", "Generated cells"), strict=False):
        for name in kinds:
            axis.scatter(*xy[of_cells == name].T, s=size, lw=0, alpha=0.85, **style[name])
        axis.set_title(title)
    for xy, colour, name in zip(points, (REAL, GENERATED), ("real", "generated"), strict=True):
        axes[2].scatter(*xy.T, s=size, lw=0, alpha=0.5, color=colour, label=name)
    axes[2].set_title("Both")
    axes[2].legend(loc="best", markerscale=1.6, handletextpad=0.2)
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlabel=f"{AXES[kind]} 1")
    axes[0].set_ylabel(f"{AXES[kind]} 2")
    handles = [Line2D([], [], ls="", ms=6, label=name, **style[name]) for name in kinds]
    figure.legend(handles=handles, loc="outside right center", ncols=columns, handletextpad=0.2)
    return figure


def _mean_variance(real: Profile, generated: Profile) -> Figure:
    figure = Figure(figsize=(5.6, 4.4))
    axis = figure.subplots()
    lowest = np.inf
    for profile, colour, name in ((real, REAL, "real test cells"), (generated, GENERATED, "generated cells")):
        mean, variance = profile.mean(), profile.variance()
        keep = (mean > 0) & (variance > 0)
        lowest = min(lowest, mean[keep].min(initial=np.inf))
        axis.scatter(mean[keep], variance[keep], s=5, lw=0, alpha=0.4, color=colour, label=name, rasterized=True)
    ends = np.array([lowest, real.mean().max()])
    axis.plot(ends, ends, color="black", lw=1, ls="--", label="Poisson: variance = mean")
    axis.set(
        xscale="log", yscale="log", xlabel="Mean count of the gene", ylabel="Variance", title="Variance against mean"
    )
    axis.legend(markerscale=2.5)
    return figure


def _dropout(real: Profile, generated: Profile) -> Figure:
    figure = Figure(figsize=(4.8, 4.4))
    axis = figure.subplots()
    axis.scatter(real.dropout, generated.dropout, s=5, lw=0, alpha=0.4, color=GENERATED, rasterized=True)
    axis.plot([0, 1], [0, 1], color="black", lw=1, ls="--")
    axis.set(
        xlabel="Real test cells", ylabel="Generated cells", title="Share of cells without the gene", aspect="equal"
    )
    return figure


def _histograms(real: Distribution, generated: Distribution, label: str, logarithmic: bool) -> Figure:
    """Two distributions, each of values and how many cells have each."""
    figure = Figure(figsize=(5.2, 4.0))
    axis = figure.subplots()
    both = np.concatenate([real[0], generated[0]])
    if logarithmic:
        both = np.maximum(both, 1)
        edges = np.geomspace(both.min(), both.max() + 1, 41)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        edges = np.linspace(both.min(), both.max() + 1e-9, 41)
    axis.hist(real[0], edges.tolist(), weights=real[1], density=True, color=REAL, alpha=0.35, label="real test cells")
    axis.hist(
        generated[0], edges.tolist(), weights=generated[1], density=True, histtype="step", lw=1.8, color=GENERATED,
        label="generated cells",
    )  # fmt: skip
    axis.set(ylabel="Density", yticks=[], title=label)
    axis.legend()
    return figure


def _types(result: Mapping[str, Any]) -> Figure:
    """Each type beside its floor; what was not generated, and what has no floor, is said in its row."""
    rows = [row for row in result["types"] if row["generated"] or row["floor"]]
    figure = Figure(figsize=(8.2, 1.4 + 0.32 * len(rows)))
    axes = figure.subplots(1, len(BY_TYPE), sharey=True)
    height = np.arange(len(rows))[::-1]
    metrics = {metric.key: metric for metric in catalogue.METRICS}
    for axis, metric in zip(axes, map(metrics.__getitem__, BY_TYPE), strict=True):
        floor, made = (np.array([_value(row[name], metric.name) for row in rows]) for name in ("floor", "generated"))
        axis.hlines(height, floor, made, color="#cccccc", lw=2, zorder=1)
        axis.scatter(floor, height, s=45, marker="|", lw=2.5, color="black", label="floor", zorder=2)
        axis.scatter(made, height, s=45, color=GENERATED, lw=0, label="generated", zorder=3)
        title = result["metrics"][metric.key].get("title", metric.title)
        axis.set(title=f"{title} ({'less' if metric.better == 'lower' else 'more'} is better)")
        axis.grid(axis="x", color="#eeeeee")
        axis.set_axisbelow(True)
    axes[0].set_yticks(height, [_row_name(row) for row in rows])
    for tick, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        tick.set_color(GENERATED if row["state"] in ("missing", "thin") else "black")
    axes[1].legend(loc="best")
    return figure


def _value(found: Mapping[str, float | None] | None, name: str) -> float:
    value = None if found is None else found.get(name)
    return math.nan if value is None else value


def _row_name(row: Mapping[str, Any]) -> str:
    state = "" if row["state"] == "compared" else f", {row['state']}"
    return f"{row['type']} ({row['cells_test']}{state})"


def _training(curves: Curves) -> Figure:
    figure = Figure(figsize=(10.5, 3.8))
    axes = figure.subplots(1, 2)
    for axis, (stage, columns) in zip(axes, curves.items(), strict=True):
        name = loss_of(columns)
        for split, colour, label in (("train", REAL, "training cells"), ("val", GENERATED, "held-out cells")):
            if f"{split}_{name}" in columns:  # a flow fitted to all cells has no held-out ones
                axis.plot(*columns[f"{split}_{name}"], color=colour, lw=1.6, label=label)
        axis.set(xlabel="Step", ylabel=LOSSES.get(name, name.replace("_", " ")), title=stage.capitalize())
        if axis.lines:
            axis.legend()
    return figure


def read_run(run: PathLike) -> Curves:
    """Training curves of a run: {"autoencoder": columns, "flow": columns} as `read_curves` returns them."""
    return {stage: read_curves(place(run) / stage / "metrics.csv") for stage in ("autoencoder", "flow")}


def loss_of(columns: Columns) -> str:
    """The name after `train_` and `val_` of the loss to show: one both have, `nll` or `loss` first."""
    both = sorted(name[4:] for name in columns if name.startswith("val_") and f"train_{name[4:]}" in columns)
    single = sorted(name.split("_", 1)[1] for name in columns if name.startswith(("val_", "train_")))
    return next((name for name in ("nll", "loss") if name in both), next(iter(both + single), "loss"))


def read_curves(path: PathLike | Place) -> Columns:
    """The columns of a training log.

    Parameters
    ----------
    path : path-like or Place
        CSV with `step` and metrics, cells empty where a metric was not logged.

    Returns
    -------
    dict of str to (list of int, list of float)
        Column → steps and values.

    Raises
    ------
    BadInput
        No such file, no column `step`, or something that is no number.
    """
    file_of, name = place(path), shown(str(path))
    if not file_of.is_file():
        raise BadInput(f"{name}: no training log; expected a run with autoencoder/metrics.csv and flow/metrics.csv")
    try:
        text = file_of.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: not UTF-8 text; expected a training log") from error
    columns: Columns = {}
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ()):
            raise BadInput(f"{name}: no column 'step'; expected a training log")
        for row in reader:
            try:
                step = int(float(row["step"]))
                logged = {key: float(value) for key, value in row.items() if key not in ("step", "epoch") and value}
            except (TypeError, ValueError) as error:
                raise BadInput(f"{name}: line {reader.line_num} is damaged ({error}); expected numbers") from error
            for column, value in logged.items():
                steps, values = columns.setdefault(column, ([], []))
                steps.append(step)
                values.append(value)
    return columns
