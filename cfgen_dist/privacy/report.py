"""The report of an audit: audit.json, one picture, and one page that holds everything."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfgen_dist.evaluation.folder import Contents, replaced_folder
from cfgen_dist.evaluation.plots import DPI, FLOOR, GENERATED, PALETTE, STYLE
from cfgen_dist.evaluation.report import in_words
from cfgen_dist.evaluation.verdict import number
from cfgen_dist.privacy.planted import DRAWS, KINDS, SEEN_BY, SHARES
from cfgen_dist.privacy.verdict import ABOVE, CHANCE, REAL, TITLES, WORDS, title_of
from data_loaders.types import PathLike
from data_loaders.vouchers import write_sealed

OURS = Contents("audit.json", ("audit.html", "audit.png"), "audit")
TAGS = {CHANCE: "at", REAL: "near", ABOVE: "off"}  # colours of the page


def write_report(out: PathLike, result: dict[str, Any]) -> None:
    """Write the folder of an audit: whole, or not at all.

    Parameters
    ----------
    out : path-like
    result : dict
        As `audit` returns it.
    """
    with replaced_folder(out, OURS) as built:
        write_sealed(built / "audit.json", result, indent=1, any_number=False)
        draw(built / "audit.png", result)
        image = base64.b64encode((built / "audit.png").read_bytes()).decode()
        (built / "audit.html").write_text(render(result, image), encoding="utf-8")


def render(result: Mapping[str, Any], image: str) -> str:
    """The page as text.

    Parameters
    ----------
    result : dict
        As `audit` returns it.
    image : str
        The picture, PNG in base64.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string((files("cfgen_dist.privacy") / "report.html").read_text(encoding="utf-8"))
    return template.render(
        result=result, image=image, rows=[(title_of(name), name, row) for name, row in result["generated"].items()],
        tags=TAGS, words=WORDS, titles=TITLES, seen_by=SEEN_BY, kinds=KINDS, draws=DRAWS, sources=_sources(result),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """The picture: every measure with its interval beside that of real cells, and the leaks that are seen."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _intervals(left, result)
        _power(right, result)
        figure.savefig(path, dpi=DPI)


def _intervals(axes: Axes, result: Mapping[str, Any]) -> None:
    names = [name for name in result["generated"] if name != "near_copies"][::-1]
    sets = [("generated", "generated cells", GENERATED, 0.12), ("floor", "real cells in their place", FLOOR, -0.12)]
    for key, label, colour, shift in sets:
        found = result[key]
        if found is None:
            continue
        values = [found[name]["value"] for name in names]
        ends = [[value - found[name]["low"] for name, value in zip(names, values, strict=True)],
                [found[name]["high"] - value for name, value in zip(names, values, strict=True)]]  # fmt: skip
        heights = [i + shift for i in range(len(names))]
        axes.errorbar(values, heights, xerr=[[max(0.0, end) for end in side] for side in ends], fmt="o", color=colour,
                      capsize=3, label=label)  # fmt: skip
    axes.axvline(0.5, color="#1c2530", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), [title_of(name) for name in names])
    axes.set_xlabel("share, or area under the curve; dashed: chance")
    axes.set_title("What generated cells betray")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=9)


def _power(axes: Axes, result: Mapping[str, Any]) -> None:
    markers = ("o", "s", "^")
    for i, kind in enumerate(KINDS):
        seen = [max(row["seen"].values()) for row in result["power"] if row["kind"] == kind]
        axes.plot([100 * share for share in SHARES], seen, marker=markers[i], color=PALETTE[i], label=kind, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in SHARES], [f"{100 * share:g}" for share in SHARES])
    axes.minorticks_off()
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("training cells planted, %")
    axes.set_title("Planted leaks: share of draws seen")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=9)


def _sources(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the provenance table lists, name and value."""
    provenance, cells = result["provenance"], result["cells"]
    rows = [("Real cells", f"{provenance['real']['path']} ({cells['train']:,} training, {cells['test']:,} test cells)")]
    generation = provenance["generated"]["generation"]
    rows.append(("Generated cells", f"{provenance['generated']['path']} ({cells['generated']:,} cells)"))
    if generation:
        rows += [("Generation", in_words(generation["plan"])), ("Model", in_words(generation["model"]))]
    return rows
