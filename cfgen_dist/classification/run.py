"""Do cell-type classifiers gain from generated cells? Scored per type on held-out cells, with and without them."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

from cfgen_dist.classification.classifiers import Blocks, Moments, knn, logistic
from data_loaders import Atlas, open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.files import begin_output, finish_output
from data_loaders.locks import alone
from data_loaders.progress import progress
from data_loaders.types import Array, Floats, Ints, PathLike

CLASSIFIERS = ("logistic", "knn")
CONFIDENCE = 0.95


@alone()
def classify(
    atlas: PathLike,
    augmented: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    label: str = "cell_type",
    seeds: int = 5,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Fit classifiers on the original and on the augmented training cells and score both on the original's test cells.

    Parameters
    ----------
    atlas : path-like
        Real cells with splits; train and val cells train, test cells (held-out donors) test.
    augmented : path-like or list of path-like
        Of `cfgen_dist.generation.augment.augment`; several (generated with several seeds) take turns over the seeds.
    out : path-like
        Folder to write: `classify.csv`, `classify.json`, `classify.png`.
    label : str
    seeds : int
        Repetitions. A seed is an order of cells for the regression, and one of several augmented atlases; kNN on one
        augmented atlas has no randomness, its repetitions agree.

    Returns
    -------
    table : pandas.DataFrame
        A row per classifier and type: `train_cells`, `generated_cells`, `test_cells`, `frequency` (share of the real
        training cells), and over the seeds the mean of `f1_original`, `f1_augmented`, `gain`, with `gain_low`,
        `gain_high` (95 % interval of the mean, Student's t).
    summary : dict
        Per classifier: macro F1 with and without, its gain, and Pearson's r between gain and log10 frequency,
        each with its interval over seeds.

    Raises
    ------
    BadInput
        A missing column, stores of other genes, no test cells, an augmented atlas without generated cells, an `out`
        that exists.
    """
    paths = [augmented] if isinstance(augmented, str | os.PathLike) else list(augmented)
    if seeds < 1:
        raise BadInput(f"seeds is {seeds}, expected at least 1")
    original = open_atlas(atlas)
    others = [open_atlas(path) for path in paths]
    for other in others:
        _check_pair(original, other, label)
    folder = begin_output(out)
    try:
        table, summary = _compare(original, others, label, seeds)
        table.to_csv(folder / "classify.csv", index=False)
        stated = {"atlas": str(atlas), "augmented": [str(path) for path in paths], "label": label, "seeds": seeds}
        text = json.dumps(stated | {"summary": summary, "types": table.to_dict("records")}, indent=1)
        (folder / "classify.json").write_text(text)
        plot_gains(table, summary, folder / "classify.png")
        finish_output(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return table, summary


def training_rows(atlas: Atlas, label: str) -> Ints:
    """Rows of the cells of the splits train and val that have a label."""
    training = np.isin(np.asarray(atlas.obs("split")).astype(str), ("train", "val"))
    return np.flatnonzero(training & (atlas.small_codes(label) >= 0))


def _compare(
    original: Atlas, others: Sequence[Atlas], label: str, seeds: int
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Fit and score everything; the table and the summary of `classify`."""
    test_rows = original.rows(split="test")
    test_rows = test_rows[original.small_codes(label)[test_rows] >= 0]
    names = np.asarray(original.categories(label), dtype=str)
    truth = names[original.codes(label)[test_rows]]
    test = Blocks(original, test_rows)
    real = np.bincount(original.codes(label)[training_rows(original, label)], minlength=len(names))
    types = [str(name) for name, n in zip(names, real, strict=True) if n and (truth == name).any()]
    prepared: dict[str, tuple[Moments, Array]] = {}
    rows_of_scores: list[tuple[str, int, str, str, float]] = []
    with progress("classify", 2 * seeds * len(CLASSIFIERS), "fits") as advance:
        for seed in range(seeds):
            for side, atlas in (("original", original), ("augmented", others[seed % len(others)])):
                rows = training_rows(atlas, label)
                if atlas.name not in prepared:
                    moments = Moments.fit(atlas, rows)
                    prepared[atlas.name] = moments, knn(atlas, rows, label, moments, test)
                moments, by_neighbours = prepared[atlas.name]
                by_regression = logistic(atlas, rows, label, moments, test, seed)
                for kind, predicted in (("knn", by_neighbours), ("logistic", by_regression)):
                    f1 = f1_score(truth, predicted, labels=types, average=None, zero_division=0)
                    rows_of_scores += [(kind, seed, side, name, value) for name, value in zip(types, f1, strict=True)]
                    advance()
    scores = pd.DataFrame(rows_of_scores, columns=["classifier", "seed", "side", "type", "f1"])
    wide = scores.pivot(index=["classifier", "seed", "type"], columns="side", values="f1").reset_index()
    wide["gain"] = wide["augmented"] - wide["original"]
    wide["frequency"] = wide["type"].map(dict(zip(names, real / real.sum(), strict=True)))
    facts = _facts(original, others, label, names, real, truth)
    return _per_type(wide, facts, types), {kind: _overall(wide[wide["classifier"] == kind]) for kind in CLASSIFIERS}


def _facts(
    original: Atlas, others: Sequence[Atlas], label: str, names: Array, real: Ints, truth: Array
) -> dict[str, dict[str, Any]]:
    """Type → how many training, generated and test cells it has."""
    n_generated = {str(name): 0.0 for name in names}
    for other in others:
        made = np.asarray(other.obs("is_generated"), dtype=bool)
        counts = np.bincount(other.codes(label)[made], minlength=len(other.categories(label)))
        for name, n in zip(other.categories(label), counts, strict=True):
            n_generated[name] = n_generated.get(name, 0.0) + n / len(others)
    return {
        str(name): {
            "train_cells": int(n),
            "generated_cells": round(n_generated[str(name)]),
            "test_cells": int((truth == name).sum()),
            "frequency": float(n / real.sum()),
        }
        for name, n in zip(names, real, strict=True)
    }


def _per_type(wide: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], types: Sequence[str]) -> pd.DataFrame:
    """The table, rarest types first."""
    rows = []
    for kind in CLASSIFIERS:
        for name in sorted(types, key=lambda name: facts[name]["train_cells"]):
            cells = wide[(wide["classifier"] == kind) & (wide["type"] == name)]
            mean, low, high = interval(cells["gain"])
            rows.append(
                {"classifier": kind, "type": name, **facts[name], "f1_original": cells["original"].mean()}
                | {"f1_augmented": cells["augmented"].mean(), "gain": mean, "gain_low": low, "gain_high": high}
            )
    return pd.DataFrame(rows)


def _overall(wide: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Macro F1 and Pearson's r of one classifier, over seeds."""
    by_seed = wide.groupby("seed")
    r = by_seed.apply(lambda cells: correlation(np.log10(cells["frequency"]), cells["gain"]), include_groups=False)
    values = {
        "macro_f1_original": by_seed["original"].mean(),
        "macro_f1_augmented": by_seed["augmented"].mean(),
        "macro_f1_gain": by_seed["gain"].mean(),
        "pearson_r": r,
    }
    return {name: interval(by_seed)._asdict() for name, by_seed in values.items()}


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def correlation(x: Floats, y: Floats) -> float:
    """Pearson's r; nan with fewer than three points or where one side does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(stats.pearsonr(x, y).statistic)


def interval(values: Floats | Sequence[float]) -> Interval:
    """Mean and its 95 % interval by Student's t; the interval is nan for fewer than two values."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(mean, float(mean - half), float(mean + half))


def plot_gains(table: pd.DataFrame, summary: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Scatter of the F1 gain of each type against its frequency, one panel a classifier."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(CLASSIFIERS), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(CLASSIFIERS), sharey=True), CLASSIFIERS, strict=True):
        types = table[table["classifier"] == kind]
        spread = [np.nan_to_num(types["gain"] - types["gain_low"]), np.nan_to_num(types["gain_high"] - types["gain"])]
        axes.errorbar(types["frequency"], types["gain"], yerr=spread, fmt="o", capsize=2)
        for x, y, name in zip(types["frequency"], types["gain"], types["type"], strict=True):
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="share of the real training cells", ylabel="F1 gain on held-out cells")
        axes.set_title(f"{kind}: Pearson r {summary[kind]['pearson_r']['mean']:.2f}")
    figure.savefig(path, dpi=150)


def _check_pair(original: Atlas, other: Atlas, label: str) -> None:
    """Refuse what cannot be compared, before anything is fitted."""
    for atlas in (original, other):
        for name in (label, "split"):
            if name not in atlas.obs_columns:
                raise BadInput(f"{atlas.name}: no obs column {name!r}, {nearest(name, atlas.obs_columns)}")
    if list(original.genes) != list(other.genes):
        raise BadInput(f"{other.name}: its {other.n_genes:,} genes are not the {original.n_genes:,} of {original.name}")
    if len(original.rows(split="test")) == 0:
        raise BadInput(f"{original.name}: no cell has split 'test'; `ingest(holdout=COLUMN)` holds some out")
    if "is_generated" not in other.obs_columns or not np.asarray(other.obs("is_generated")).any():
        raise BadInput(f"{other.name}: no generated cells in it, expected an atlas made by `augment()`")
    if len(np.unique(original.codes(label)[training_rows(original, label)])) < 2:
        raise BadInput(f"{original.name}: fewer than two categories of {label!r} among its training cells")
