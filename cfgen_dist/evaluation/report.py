"""The report of an evaluation: metrics.json, the figures, and one page that holds everything."""

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2

from cfgen_dist.evaluation import attributes
from cfgen_dist.evaluation.by_attribute import group_metrics
from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.folder import Contents, replaced_folder
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.metric import Metric
from cfgen_dist.evaluation.plots import FIGURES, Curves, draw_figures
from cfgen_dist.evaluation.spaces.log_normalised import N_GENES, N_PCS
from cfgen_dist.evaluation.verdict import VERDICTS, number
from data_loaders.types import Array, PathLike
from data_loaders.vouchers import write_sealed

OURS = Contents("metrics.json", ("report.html", *(f"{name}.png" for name in FIGURES)), "evaluation")
CAPTIONS = {
    "cells": "Real test cells, generated cells, and both. The map was made from the real cells alone; generated "
    "cells were placed on it afterwards. Generated cells should fill the same regions with the same types.",
    "types": "Each type with its number of test cells. Black bar: the floor. Dot: generated cells. Types that "
    "generated sets lack are named in red: they have no dot, or one of few cells.",
    "mean_variance": "One dot per gene. Counts vary more than chance alone (dashed line) because cells differ; "
    "generated cells should follow the same band.",
    "dropout": "One dot per gene; on the dashed line, as many generated as real cells miss it.",
    "zeros": "How sparse single cells are.",
    "size_factors": "How deeply single cells were sequenced.",
    "training": "Loss while training. The autoencoder stops where the held-out loss no longer falls.",
}
ARROWS = {"lower": "lower", "higher": "higher", "equal": "as real"}


def write_report(
    out: PathLike, result: dict[str, Any], real: CellSet, shown: CellSet, names: Array, *, embedding: str,
    curves: Curves | None,
) -> None:  # fmt: skip
    """Write the folder of an evaluation: whole, or not at all.

    Parameters
    ----------
    out : path-like
    result : dict
    real, shown, names, embedding, curves
        See `plots.draw_figures`.
    """
    with replaced_folder(out, OURS) as built:
        figures = draw_figures(built, result, real, shown, names, embedding=embedding, curves=curves)
        write_sealed(built / "metrics.json", result, indent=1, any_number=False)
        images = {name: base64.b64encode((built / f"{name}.png").read_bytes()).decode() for name in figures}
        (built / "report.html").write_text(render(result, images, embedding), encoding="utf-8")


def render(result: Mapping[str, Any], images: Mapping[str, str], embedding: str) -> str:
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
    rows = _rows(result["metrics"])
    groups = [
        (title, catalogue.QUESTIONS[group], [row for row in rows if row[0].group == group])
        for group, title in catalogue.GROUPS.items()
    ]
    modalities = {
        name: (found, _rows(found.get("metrics", {}))) for name, found in result.get("modalities", {}).items()
    }
    n_genes, n_test = result["provenance"]["n_genes"], result["provenance"]["cells"]["test"]
    variable = f"the {N_GENES:,} most variable genes of the real test cells"
    return template.render(
        genes=variable if n_genes > N_GENES else f"all {n_genes:,} genes", components=min(N_PCS, n_genes, n_test - 1),
        result=result, groups=groups, by_type=[metric for metric, _ in rows if metric.in_types_table],
        of_groups=group_metrics(), limits=attributes, modalities=modalities,
        images=images, captions=CAPTIONS, arrows=ARROWS, verdicts=VERDICTS,
        paper=result["protocol"] == "paper", control=bool(result["n_sets"]["control"]), sources=_sources(result),
        ceiling=bool(result.get("n_ceiling")),
        embedding=embedding, spread="sd_types" if result["protocol"] == "paper" else "sd",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip


def _rows(values: Mapping[str, Any]) -> list[tuple[Metric, Any]]:
    """The metrics that have values, in the order of the catalogue, each with what `metrics.json` says of it."""
    return [(metric, values[metric.key]) for metric in catalogue.METRICS if metric.key in values]


def _sources(result: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
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


def in_words(value: Any) -> str:
    """JSON values as a line of text; of a long list only its length."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} ({in_words(each)})" if isinstance(each, dict) else f"{key} {in_words(each)}"
            for key, each in value.items()
        )
    if isinstance(value, list):
        return "; ".join(map(in_words, value)) if len(value) <= 5 else f"({len(value)} values)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
