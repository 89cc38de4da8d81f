"""The metrics in words, and the verdict: how far each value is from the floor."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One row of the report.

    Attributes
    ----------
    key : str
    title : str
    group : str
        One of `GROUPS`.
    better : {"lower", "higher", "equal"}
        `equal`: best where it equals the value of the real test cells.
    near : float
        A value worse than the floor by no more than this is near it.
    relative : bool
        `near` is a share of the floor.
    meaning : str
        One line for the reader.
    """

    key: str
    title: str
    group: str
    better: str
    near: float
    meaning: str
    relative: bool = False


GROUPS = {
    "types": "Cells of each type",
    "overall": "All cells together",
    "structure": "How genes go together",
    "counts": "The counts themselves",
}
QUESTIONS = {
    "types": "Do generated cells of a type lie where its real cells lie?",
    "overall": "Is the mixture of all cells right?",
    "structure": "Are patterns across genes right, not only each gene by itself?",
    "counts": "Do the counts look like those of a sequencer?",
}
METRICS = (
    Metric("w2", "W2", "types", "lower", 0.05,
           "How far generated cells must be moved to become the real cells of their type (mean over types).", True),
    Metric("w1", "W1", "types", "lower", 0.05,
           "As W2, with less weight on the few cells that are far away.", True),
    Metric("mmd", "Linear MMD", "types", "lower", 1.0,
           "Squared distance of the average generated from the average real cell of a type (mean over types).", True),
    Metric("mmd_rbf", "RBF MMD", "types", "lower", 0.25,
           "Difference of the two distributions inside a type at several length scales (mean over types).", True),
    Metric("knn_f1", "10-NN macro-F1", "types", "higher", 0.05,
           "How often generated cells land among real cells of their type; every type counts the same."),
    Metric("w2_all", "W2 over all cells", "overall", "lower", 0.05, "W2 without looking at types.", True),
    Metric("w1_all", "W1 over all cells", "overall", "lower", 0.05, "W1 without looking at types.", True),
    Metric("mmd_all", "Linear MMD over all cells", "overall", "lower", 1.0,
           "Squared distance of the averages over all cells.", True),
    Metric("mmd_rbf_all", "RBF MMD over all cells", "overall", "lower", 0.5,
           "Difference of the two distributions over all cells.", True),
    Metric("auc_genes", "Classifier AUC on genes", "structure", "lower", 0.1,
           "Can a random forest tell generated from real cells by their genes? 0.5: no better than a coin; 1: always."),
    Metric("auc_pcs", "Classifier AUC on components", "structure", "lower", 0.1,
           "The same on principal components, where it sees broad patterns better and single genes less."),
    Metric("correlation_error", "Gene-gene correlation error", "structure", "lower", 0.25,
           "Error of the correlations inside types. 0: as in real cells; 1: as if genes were independent."),
    Metric("precision", "Precision", "structure", "higher", 0.1,
           "Share of generated cells that lie where real cells lie."),
    Metric("recall", "Recall", "structure", "higher", 0.1, "Share of real cells that lie where generated cells lie."),
    Metric("density", "Density", "structure", "higher", 0.2,
           "How many real cells surround a generated one, relative to real cells among themselves (1: the same)."),
    Metric("coverage", "Coverage", "structure", "higher", 0.1,
           "Share of real cells with a generated cell in their neighbourhood."),
    Metric("zeros", "Share of zeros", "counts", "equal", 0.005, "How much of the count matrix is zero."),
    Metric("zeros_per_cell", "Zeros per cell (W1)", "counts", "lower", 0.01,
           "Difference of the distributions of the share of genes that a cell does not express."),
    Metric("dropout", "Dropout per gene", "counts", "lower", 0.005,
           "For the average gene, the difference in the share of cells that do not express it."),
    Metric("mean_variance", "Mean-variance trend", "counts", "lower", 0.05,
           "Difference of the variance of genes of equal mean, in powers of ten."),
    Metric("size_factor", "Size factors (W1 of logs)", "counts", "lower", 0.05,
           "Difference of the distributions of total counts per cell; 0.1 is about 10 %."),
)  # fmt: skip
VERDICTS = {"at": "at the floor", "near": "near the floor", "off": "off the floor", "none": "not measured"}


def judge(metric, generated, floor, real=None):
    """Compare a value with its floor.

    Parameters
    ----------
    metric : Metric
    generated, floor : {"mean": float, "sd": float}
    real : float, optional
        Value of the real test cells, for `better="equal"`.

    Returns
    -------
    str
        `at`: worse than the floor by no more than their spreads over sets (or a tenth of `near`); `near`: by no more
        than `metric.near`; `off`: by more; `none`: one of them could not be measured.
    """
    value, best = generated["mean"], floor["mean"]
    if not (math.isfinite(value) and math.isfinite(best)):
        return "none"
    if metric.better == "equal":
        value, best = abs(value - real), abs(best - real)
    worse = best - value if metric.better == "higher" else value - best
    near = metric.near * abs(best) if metric.relative else metric.near
    spread = math.hypot(*(s if math.isfinite(s) else 0.0 for s in (generated["sd"], floor["sd"])))
    if worse <= max(spread, near / 10):
        return "at"
    return "near" if worse <= near else "off"


def sentences(metrics):
    """The verdict in words.

    Parameters
    ----------
    metrics : dict
        Metric key → {"generated", "floor": {"mean"}, "verdict"}.

    Returns
    -------
    list of str
        The overall sentence, then one per group with the values of what is not at the floor.
    """
    count = {verdict: sum(row["verdict"] == verdict for row in metrics.values()) for verdict in ("at", "near", "off")}
    lines = [
        f"Of {sum(count.values())} measures, "
        f"{count['at']} are at the floor, {count['near']} near it, {count['off']} off it."
    ]
    for group, title in GROUPS.items():
        mine = [metric for metric in METRICS if metric.group == group and metrics[metric.key]["verdict"] != "none"]
        parts = []
        for verdict in ("at", "near", "off"):
            chosen = [metric for metric in mine if metrics[metric.key]["verdict"] == verdict]
            if chosen:
                values = [_with_values(metric.title, metrics[metric.key]) for metric in chosen]
                parts.append(f"{VERDICTS[verdict]}: {', '.join(values)}")
        if parts:
            lines.append(f"{title}: " + "; ".join(parts) + ".")
    return lines


def _with_values(title, row):
    return f"{title} {number(row['generated']['mean'])} ({number(row['floor']['mean'])})"


def number(value):
    """A number with three significant digits; a dash for one that was not measured."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.01 else f"{value:#.3g}"
