"""What the figures of each protocol are: `paper` computes some of them in another way, under names of their own."""

from collections.abc import Mapping
from typing import Any

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.metric import Metric

UNCENTRED = "uncentred"
IN_COMPONENTS = ("points", "components")  # scorers of these compare cells in components
PAPER: dict[str, tuple[str, str]] = {  # name of a scorer's value → title and meaning under the protocol `paper`
    "mmd": (
        "Linear-time MMD",
        "A noisy estimate of the squared distance of the average cells, which depends on their order and may be "
        "negative",
    ),
    "knn_f1": (
        "10-NN F1 inside single types",
        "Computed among the cells of one type alone, where every other type that the classifier names counts as one of "
        "F1 0: far below a macro-F1, for real cells too (mean over types)",
    ),
}
PAPER_SAYS = (
    "Protocol paper: computed as the tables of the CFGen paper were, to be compared with those tables alone. "
    "In components (W1, W2, MMD, F1) generated and floor cells are projected without subtracting the mean of the test "
    "cells, which are centred: every distance contains that shift, and real cells score badly too.",
    "MMD is the linear-time estimate, not the squared distance of the means; F1 is computed inside each single type, "
    "not over all types; ± is the spread over types, not over sets, where a measure is computed per type.",
    "The measures of structure and of counts, and those of further modalities, are the same under both protocols.",
)


def title_of(metric: Metric, protocol: str) -> str:
    """What a measure is called."""
    if not _differs(metric, protocol):
        return metric.title
    title = PAPER[metric.name][0] if metric.name in PAPER else metric.title.removesuffix(" over all cells")
    everywhere = " over all cells" if metric.title.endswith(" over all cells") else ""
    return f"{title}{everywhere}, {UNCENTRED}"


def meaning_of(metric: Metric, protocol: str) -> str:
    """One line for the reader."""
    if not _differs(metric, protocol):
        return metric.meaning
    if metric.name in PAPER:
        return f"{PAPER[metric.name][1]}; cells were projected without subtracting the mean."
    return f"{metric.meaning} Cells were projected without subtracting the mean."


def said(protocol: str) -> list[str]:
    """What the reader must know before any figure, in sentences; nothing of the default protocol."""
    return list(PAPER_SAYS) if protocol == "paper" else []


def name_figures(metrics: Mapping[str, dict[str, Any]], protocol: str) -> None:
    """Give the row of each measure, by key, its `title` and `meaning` under a protocol."""
    for metric in catalogue.METRICS:
        if metric.key in metrics:
            metrics[metric.key] |= {"title": title_of(metric, protocol), "meaning": meaning_of(metric, protocol)}


def _differs(metric: Metric, protocol: str) -> bool:
    return protocol == "paper" and metric.scorer.needs in IN_COMPONENTS
