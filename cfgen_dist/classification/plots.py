"""The figure of a classification."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

GAINS = {"gain": "over the original cells", "gain_over_copies": "over copies of real cells"}


def plot_gains(table: pd.DataFrame, summary: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Scatter of the F1 of each arm and of the gain of generated cells against the frequency of the type.

    A row of panels for each classifier: F1 with the original cells, with copies and with generated ones; the gain over
    the original cells; the gain over copies.
    """
    from matplotlib.figure import Figure

    kinds = list(summary)
    figure = Figure(figsize=(15, 4 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), 1 + len(GAINS), squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        types = table[table["classifier"] == kind]
        for arm, marker in (("original", "o"), ("copies", "s"), ("generated", "^")):
            row[0].plot(types["frequency"], types[f"f1_{arm}"], marker, label=arm, alpha=0.7)
        row[0].set(xscale="log", ylabel="F1 on held-out cells", title=kind)
        row[0].legend()
        for axes, (gain, words) in zip(row[1:], GAINS.items(), strict=True):
            spread = [
                np.nan_to_num(types[gain] - types[f"{gain}_low"]),
                np.nan_to_num(types[f"{gain}_high"] - types[gain]),
            ]
            axes.errorbar(types["frequency"], types[gain], yerr=spread, fmt="o", capsize=2)
            for x, y, name in zip(types["frequency"], types[gain], types["type"], strict=True):
                axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
            axes.axhline(0, color="grey", linewidth=0.8)
            mean = summary[kind][f"macro_f1_{gain}"]["mean"]
            axes.set(xscale="log", ylabel="gain of F1", title=f"{kind}: gain {words}, mean {mean:+.3f}")
        for axes in row:
            axes.set_xlabel("share of the real training cells")
    figure.savefig(path, dpi=150)
