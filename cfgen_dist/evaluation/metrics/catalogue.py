"""The catalogue: every metric of an evaluation, one row each.

To add a metric, write its function in this folder and add a row to `METRICS`. Workers, summary and report go by this
table, and `digest` makes the parts of interrupted evaluations with another table invalid.
"""

import hashlib
import inspect
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from cfgen_dist.evaluation.metrics import (
    abundance,
    composition,
    depth,
    distances,
    faithfulness,
    fold_changes,
    neighbours,
    structure,
)
from cfgen_dist.evaluation.metrics.metric import Limit, Metric, Scorer

LOG_NORMALISED, TF_IDF = "log-normalised", "TF-IDF"  # the spaces in which cells are compared
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

DISTANCES = Scorer(
    distances.distances, "points", paper=distances.paper_distances,
    limits=(
        Limit(
            distances.TRANSPORT_CELLS, ("types", "all"),
            f"Transport was computed on {distances.TRANSPORT_REPEATS} random subsamples of "
            f"{distances.TRANSPORT_CELLS:,} cells a side",
        ),
        Limit(
            distances.KERNEL_CELLS, ("types", "all"),
            f"RBF MMD was computed on {distances.KERNEL_CELLS:,} random cells a side",
        ),
    ),
)  # fmt: skip
STRUCTURE = Scorer(
    structure.structure, "counts",
    limits=(
        Limit(
            structure.CELLS, ("all",),
            "Classifier AUCs, precision, recall, density and coverage were computed on "
            f"{structure.CELLS:,} random cells a side",
        ),
        Limit(
            structure.CORRELATION_LIMIT, ("types",),
            f"Correlations were computed on {structure.CORRELATION_LIMIT:,} random cells a side",
        ),
    ),
)  # fmt: skip
NEIGHBOURS = Scorer(
    neighbours.neighbours, "components", paper=neighbours.neighbours_inside_types,
    limits=(
        Limit(
            neighbours.CLASSIFIED_CELLS, ("types",),
            f"The 10-NN classifier was asked about {neighbours.CLASSIFIED_CELLS:,} random cells",
        ),
        Limit(
            neighbours.FITTED_CELLS, ("test",),
            f"The 10-NN classifier was fitted on {neighbours.FITTED_CELLS:,} random cells",
        ),
    ),
)  # fmt: skip

FOLDS = Scorer(fold_changes.fold_changes, "types")
ABUNDANCE = Scorer(abundance.abundance, "profile")

METRICS: tuple[Metric, ...] = (
    Metric("w2", DISTANCES, "W2", "types", "lower", 0.075,
           "How far generated cells must be moved to become the real cells of their type (mean over types).", True,
           mean_of_types=True, in_types_table=True),
    Metric("w1", DISTANCES, "W1", "types", "lower", 0.074,
           "As W2, with less weight on the few cells that are far away.", True, mean_of_types=True),
    Metric("mmd", DISTANCES, "Linear MMD", "types", "lower", 1.1,
           "Squared distance of the average generated from the average real cell of a type (mean over types).", True,
           mean_of_types=True, in_types_table=True),
    Metric("mmd_rbf", DISTANCES, "RBF MMD", "types", "lower", 0.032,
           "Difference of the two distributions inside a type at several length scales (mean over types).",
           mean_of_types=True),
    Metric("knn_f1", NEIGHBOURS, "10-NN macro-F1", "types", "higher", 0.14,
           "How often generated cells land among real cells of their type; every type counts the same.",
           in_types_table=True),
    Metric("fold_slope", FOLDS, "Slope of fold changes", "types", "equal", 0.043,
           "Strength of the log fold changes of a type against the rest, relative to the real ones (mean over types).",
           mean_of_types=True, in_types_table=True, space=LOG_NORMALISED),
    Metric("fold_rank", FOLDS, "Rank correlation of fold changes", "types", "higher", 0.019,
           "Do generated cells of a type order the genes by fold change as its real cells do (mean over types)?",
           mean_of_types=True, space=LOG_NORMALISED),
    Metric("fold_top", FOLDS, "Top 100 genes found", "types", "higher", 0.045,
           "Share of the 100 genes that set the real cells of a type apart which also do in generated cells (mean over "
           "types).", mean_of_types=True, space=LOG_NORMALISED),
    Metric("composition", Scorer(composition.composition, "labels"), "Composition", "overall", "lower", 0.028,
           "Share of the generated cells that would need another type for the composition of the real test cells.",
           space=LOG_NORMALISED),
    Metric("w2_all", DISTANCES, "W2 over all cells", "overall", "lower", 0.032,
           "W2 without looking at types.", True, value="w2"),
    Metric("w1_all", DISTANCES, "W1 over all cells", "overall", "lower", 0.018,
           "W1 without looking at types.", True, value="w1"),
    Metric("mmd_all", DISTANCES, "Linear MMD over all cells", "overall", "lower", 1.6,
           "Squared distance of the averages over all cells.", True, value="mmd"),
    Metric("mmd_rbf_all", DISTANCES, "RBF MMD over all cells", "overall", "lower", 0.0014,
           "Difference of the two distributions over all cells.", value="mmd_rbf"),
    Metric("auc_genes", STRUCTURE, "Classifier AUC on genes", "structure", "lower", 0.068,
           "Can a random forest tell generated from real cells by their genes? 0.5: no better than a coin; 1: always."),
    Metric("auc_pcs", STRUCTURE, "Classifier AUC on components", "structure", "lower", 0.056,
           "The same on principal components, where it sees broad patterns better and single genes less."),
    Metric("auc_linear", STRUCTURE, "Linear classifier AUC", "structure", "lower", 0.048,
           "The same for a logistic regression on all genes, which adds up what is slightly wrong in many of them."),
    Metric("correlation_error", STRUCTURE, "Gene-gene correlation error", "structure", "lower", 0.095,
           "Error of the correlations inside types. 0: as in real cells; 1: as if genes were independent."),
    Metric("precision", STRUCTURE, "Precision", "structure", "higher", 0.038,
           "Share of generated cells that lie where real cells lie."),
    Metric("recall", STRUCTURE, "Recall", "structure", "higher", 0.038,
           "Share of real cells that lie where generated cells lie."),
    Metric("density", STRUCTURE, "Density", "structure", "higher", 0.18,
           "How many real cells surround a generated one, relative to real cells among themselves (1: the same)."),
    Metric("coverage", STRUCTURE, "Coverage", "structure", "higher", 0.028,
           "Share of real cells with a generated cell in their neighbourhood."),
    Metric("zeros", Scorer(faithfulness.zeros, "profile"), "Share of zeros", "counts", "equal", 0.012,
           "How much of the count matrix is zero."),
    Metric("open", Scorer(faithfulness.open_share, "profile"), "Share of open peaks", "counts", "equal", 0.012,
           "How much of the count matrix is not zero.", value="open_share", space=TF_IDF),
    Metric("zeros_per_cell", Scorer(faithfulness.zeros_per_cell, "profile"), "Zeros per cell (W1)", "counts",
           "lower", 0.0057, "Difference of the distributions of the share of genes that a cell does not express."),
    Metric("dropout", Scorer(faithfulness.dropout, "profile"), "Dropout per gene", "counts", "lower", 0.0016,
           "For the average gene, the difference in the share of cells that do not express it."),
    Metric("genes_at_depth", Scorer(depth.genes_at_depth, "profile"), "Genes at equal depth", "counts", "lower", 0.017,
           "Difference of the number of genes of cells with as many counts; 0.1 is 10 %."),
    Metric("rare_genes", ABUNDANCE, "Counts of rare genes", "counts", "equal", 0.019,
           "Counts that fall on rare genes, relative to real cells; 0.95 is 5 % too few.", space=LOG_NORMALISED),
    Metric("abundance", ABUNDANCE, "Abundance bias", "counts", "lower", 0.014,
           "Difference of the counts of genes of equal abundance; 0.1 is 10 %.", space=LOG_NORMALISED),
    Metric("mean_variance", Scorer(faithfulness.mean_variance, "profile"), "Mean-variance trend", "counts",
           "lower", 0.012, "Difference of the variance of genes of equal mean, in powers of ten."),
    Metric("size_factor", Scorer(faithfulness.size_factor, "profile"), "Size factors (W1 of logs)", "counts",
           "lower", 0.039, "Difference of the distributions of total counts per cell; 0.1 is about 10 %."),
)  # fmt: skip


def metrics_of(space: str = LOG_NORMALISED, *, counts: bool = True) -> list[Metric]:
    """The rows that apply in a space; without `counts`, those that need no counts of single cells and no store."""
    without = () if counts else ("counts", "labels")
    return [metric for metric in METRICS if metric.space in (None, space) and metric.scorer.needs not in without]


def scorers_of(metrics: Iterable[Metric]) -> dict[str, Scorer]:
    """The scorers behind some rows, each once, by name."""
    return {metric.scorer.name: metric.scorer for metric in metrics}


def digest() -> str:
    """Of all that values depend on: the rows, their functions, and the code of the metrics and of the spaces.

    It is part of the settings of an evaluation, so that parts and reports of another catalogue are not taken for its
    own.
    """
    found = hashlib.sha256()
    for metric in METRICS:
        row = {field.name: getattr(metric, field.name) for field in fields(metric) if field.name != "scorer"}
        scorer = metric.scorer
        found.update(repr((row, scorer.name, scorer.needs, scorer.limits)).encode())
        for function in filter(None, (scorer.function, scorer.paper)):
            found.update(inspect.getsource(function).encode())
    package = Path(__file__).parents[1]
    for file in sorted([*package.glob("metrics/*.py"), *package.glob("spaces/*.py"), package / "cellset.py"]):
        found.update(file.read_bytes())
    return found.hexdigest()
