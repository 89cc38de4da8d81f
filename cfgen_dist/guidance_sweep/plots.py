"""The pictures of a guidance study: a grid of clouds, and the scores as curves or heat maps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfgen_dist.evaluation.plots import DPI, GENERATED, REAL, STYLE, embed
from cfgen_dist.guidance_sweep.scores import Target
from data_loaders.types import Floats

Result = Mapping[str, Any]  # as `cfgen_dist.guidance_sweep.run.guide` returns it
EMBEDDINGS = ("pca", "umap")
COLUMNS = 8  # panels side by side
SHOWN = ("on_target", "w2", "mmd", "spread", "coverage", "precision")
WORDS = {
    "on_target": "Share of nearest real cells\nthat are of the target",
    "w2": "W2 to the target",
    "mmd": "Linear MMD to the target",
    "spread": "Variance over the target's",
    "coverage": "Coverage of the target",
    "precision": "Precision",
}
BETTER = {
    "on_target": "higher is better", "w2": "lower is better", "mmd": "lower is better", "spread": "1: as real",
    "coverage": "higher is better", "precision": "higher is better",
}  # fmt: skip


def draw_cells(path: Path, result: Result, target: Target, clouds: Sequence[Floats], embedding: str) -> None:
    """One panel per setting: generated cells over the real ones of the target and of all labels.

    Parameters
    ----------
    path : Path
    result : dict
        As `cfgen_dist.guidance_sweep.run.guide` returns it.
    target : Target
    clouds : list of float arrays (cells, C)
    embedding : {"pca", "umap"}
        Fitted on the real cells.
    """
    background, points = embed(target.all_pcs, np.concatenate([target.pcs, *clouds]), embedding, target.seed)
    ends = np.cumsum([len(target.pcs), *map(len, clouds)])
    real, *made = np.split(points, ends[:-1])
    rows = _panel_rows(result)
    height, width = len(rows), max(map(len, rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * width + 0.6, 2.3 * height + 0.9))
        axes = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, number in ((axes[r, c], n) for r, row in enumerate(rows) for c, n in enumerate(row)):
            axis.set_axis_on()
            axis.scatter(*background.T, s=3, lw=0, color="#dddddd", rasterized=True)
            axis.scatter(*real.T, s=5, lw=0, alpha=0.7, color=REAL, label="real, target")
            axis.scatter(*made[number].T, s=4, lw=0, alpha=0.6, color=GENERATED, label="generated")
            axis.set(xticks=[], yticks=[])
            axis.set_title(_title(result["settings"][number], result), fontsize=8, fontweight="normal")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=3)
        figure.suptitle(_name(result), fontsize=10)
        figure.savefig(path, dpi=DPI)


def draw_scores(path: Path, result: Result) -> None:
    """The scores: curves over the weight of one attribute, heat maps over those of two.

    Parameters
    ----------
    path : Path
    result : dict
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 6.2))
        axes = figure.subplots(2, 3)
        draw = _heat_map if len(result["sweep"]) == 2 else _curves
        for axis, metric in zip(axes.flat, SHOWN, strict=True):
            draw(axis, result, metric)
            axis.set_title(f"{WORDS[metric]} ({BETTER[metric]})", size=8)
        figure.suptitle(_name(result), fontsize=10)
        figure.savefig(path, dpi=DPI)


def _curves(axis: Axes, result: Result, metric: str) -> None:
    (name,) = result["sweep"]
    for kind, colour, label in (("composed", GENERATED, "attributes composed"), ("joint", REAL, "joint attribute")):
        settings = [setting for setting in result["settings"] if setting["model"] == kind]
        if settings:
            x, y = zip(*((setting["weights"][name], setting[metric]) for setting in settings), strict=True)
            axis.plot(x, y, marker="o", ms=3.5, color=colour, label=label)
    if result["floor"]:
        axis.axhline(result["floor"][metric], color="#555555", ls="--", lw=1, label="real cells")
    axis.set_xlabel(f"weight of {name}" + (" (joint: of all)" if result["joint_model"] else ""))
    if metric == SHOWN[0]:
        axis.legend(fontsize=8)


def _heat_map(axis: Axes, result: Result, metric: str) -> None:
    (first, xs), (second, ys) = result["sweep"].items()
    values = np.array([s[metric] for s in result["settings"] if s["model"] == "composed"]).reshape(len(xs), len(ys)).T
    axis.imshow(values, origin="lower", aspect="auto", cmap="viridis_r" if metric in ("w2", "mmd") else "viridis")
    for (y, x), value in np.ndenumerate(values):
        text = axis.text(x, y, f"{value:.2g}", ha="center", va="center", size=7)
        text.set(color="white", path_effects=[matplotlib.patheffects.withStroke(linewidth=1.5, foreground="black")])
    axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axis.set(xlabel=f"weight of {first}", ylabel=f"weight of {second}")


def _panel_rows(result: Result) -> list[list[int]]:
    """Numbers of the settings, row by row: one row per weight of the second attribute, the joint ones last."""
    composed = [i for i, s in enumerate(result["settings"]) if s["model"] == "composed"]
    joint = [i for i, s in enumerate(result["settings"]) if s["model"] == "joint"]
    n_second = len(list(result["sweep"].values())[1]) if len(result["sweep"]) == 2 else 1
    groups = [composed[k::n_second] for k in range(n_second)] + ([joint] if joint else [])
    return [group[i * COLUMNS : (i + 1) * COLUMNS] for group in groups for i in range(math.ceil(len(group) / COLUMNS))]


def _title(setting: Mapping[str, Any], result: Result) -> str:
    if setting["model"] == "joint":
        return f"joint {next(iter(setting['weights'].values())):g}"
    return ", ".join(f"{name} {setting['weights'][name]:g}" for name in result["sweep"])


def _name(result: Result) -> str:
    fixed = "".join(f", weight of {name} {weight:g}" for name, weight in result["fix"].items())
    return ", ".join(f"{name}={value}" for name, value in result["target"].items()) + fixed
