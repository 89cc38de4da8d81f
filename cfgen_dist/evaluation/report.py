"""The report of an evaluation: metrics.json, the figures, and one page that holds everything."""

import base64
import json
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import jinja2

from cfgen_dist.evaluation.metrics.catalogue import GROUPS, METRICS, QUESTIONS, VERDICTS, number
from cfgen_dist.evaluation.plots import FIGURES, draw_figures
from cfgen_dist.evaluation.spaces.log_normalised import N_GENES, N_PCS
from data_loaders.errors import BadInput
from data_loaders.files import finish_output, temporary_folder

OURS = {"metrics.json", "report.html", *(f"{name}.png" for name in FIGURES)}
CAPTIONS = {
    "cells": "Real test cells, generated cells, and both. The map was made from the real cells alone; generated "
    "cells were placed on it afterwards. Generated cells should fill the same regions with the same types.",
    "types": "Each type with its number of test cells. Black bar: the floor. Dot: generated cells.",
    "mean_variance": "One dot per gene. Counts vary more than chance alone (dashed line) because cells differ; "
    "generated cells should follow the same band.",
    "dropout": "One dot per gene; on the dashed line, as many generated as real cells miss it.",
    "zeros": "How sparse single cells are.",
    "size_factors": "How deeply single cells were sequenced.",
    "training": "Loss while training. The autoencoder stops where the held-out loss no longer falls.",
}
ARROWS = {"lower": "lower", "higher": "higher", "equal": "as real"}


def check_output(out):
    """Refuse an output folder that holds anything but an earlier evaluation.

    Raises
    ------
    BadInput
    """
    out = Path(out)
    if not out.absolute().parent.is_dir():
        raise BadInput(f"{out}: its folder {out.absolute().parent} does not exist; make it first")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out}: a file; expected a folder, new or of an earlier evaluation")
    foreign = sorted(set(os.listdir(out)) - OURS) if out.exists() else []
    if foreign:
        raise BadInput(
            f"{out}: holds {foreign[0]!r}; expected a new folder, or that of an earlier evaluation to replace"
        )


def write_report(out, result, real, shown, names, *, embedding, curves):
    """Write the folder of an evaluation: whole, or not at all.

    Parameters
    ----------
    out : path-like
    result : dict
    real, shown, names, embedding, curves
        See `plots.draw_figures`.
    """
    out = Path(out)
    with temporary_folder(out) as folder:
        built = folder / "new"
        built.mkdir()
        names = draw_figures(built, result, real, shown, names, embedding=embedding, curves=curves)
        (built / "metrics.json").write_text(json.dumps(result, indent=1, allow_nan=False))
        images = {name: base64.b64encode((built / f"{name}.png").read_bytes()).decode() for name in names}
        (built / "report.html").write_text(render(result, images, embedding), encoding="utf-8")
        check_output(out)
        if out.exists():
            os.rename(out, folder / "old")
        finish_output(built, out)


def render(result, images, embedding):
    """The page as text.

    Parameters
    ----------
    result : dict
        As `evaluate` returns it.
    images : dict of str to str
        Figure name → PNG, base64.
    embedding : str
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string((files("cfgen_dist.evaluation") / "report.html").read_text(encoding="utf-8"))
    groups = [
        (
            title,
            QUESTIONS[group],
            [(metric, result["metrics"][metric.key]) for metric in METRICS if metric.group == group],
        )
        for group, title in GROUPS.items()
    ]
    n_genes, n_test = result["provenance"]["n_genes"], result["provenance"]["cells"]["test"]
    variable = f"the {N_GENES:,} most variable genes of the real test cells"
    return template.render(
        genes=variable if n_genes > N_GENES else f"all {n_genes:,} genes", components=min(N_PCS, n_genes, n_test - 1),
        result=result, groups=groups, images=images, captions=CAPTIONS, arrows=ARROWS, verdicts=VERDICTS,
        paper=result["protocol"] == "paper", control=bool(result["n_sets"]["control"]), sources=_sources(result),
        embedding=embedding, spread="sd_types" if result["protocol"] == "paper" else "sd",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def _sources(result):
    """What the provenance table lists, name and value."""
    provenance = result["provenance"]
    rows = [("Real cells", provenance["real"]["path"])]
    card = provenance["real"]["card"]
    if card:
        rows += [("Atlas", f"{card['n_cells']:,} cells x {card['n_genes']:,} genes, {card['density']:.1%} non-zero")]
        rows += [("Made from", in_words(card["sources"]))] if card.get("sources") else []
    cells = provenance["cells"]
    rows.append(("Cells", f"{cells['test']:,} test, {cells['train']:,} training, {provenance['n_genes']:,} genes"))
    for source, n in zip(provenance["generated"], cells["generated"], strict=True):
        rows.append(("Generated cells", f"{source['path']} ({n:,} cells)"))
        generation = source["generation"]
        if generation:
            rows += [("Generation", in_words(generation["plan"])), ("Model", in_words(generation["model"]))]
    rows.append(("Versions", in_words(provenance["versions"])))
    return rows


def in_words(value):
    """JSON values as a line of text; of a long list only its length."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({in_words(v)})" if isinstance(v, dict) else f"{key} {in_words(v)}" for key, v in value.items()
        )
    if isinstance(value, list):
        return "; ".join(map(in_words, value)) if len(value) <= 5 else f"({len(value)} values)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
