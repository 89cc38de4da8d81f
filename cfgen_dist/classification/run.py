"""Do cell-type classifiers gain from generated cells, more than from copies? Scored per type on held-out cells."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

from cfgen_dist.classification.classifiers import Blocks, Moments, knn, logistic, project, steps_of
from cfgen_dist.classification.plots import plot_gains
from cfgen_dist.evaluation.folder import Contents, check_new, new_folder
from data_loaders import Atlas, open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.locks import alone
from data_loaders.progress import progress
from data_loaders.seeds import Classification, generator
from data_loaders.storage import shown
from data_loaders.types import Array, Floats, Ints, PathLike

log = logging.getLogger("cfgen_dist")
CLASSIFIERS = ("logistic", "knn")
ARMS = ("original", "copies", "generated")  # what is added to the real training cells: nothing, copies, generated cells
CONFIDENCE = 0.95
OURS = Contents("classify.json", ("classify.csv", "classify.png"), "classification")


@alone(remote=True)
def classify(
    atlas: PathLike,
    augmented: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    label: str = "cell_type",
    seeds: int = 5,
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Fit classifiers with and without generated cells, and with copies, and score them on the original's test cells.

    Three sets of training cells: the original ones; with them, copies of real training cells, drawn with replacement,
    as many of each type as were generated; or with them, the generated cells. Whatever generated cells give beyond
    copies is theirs; the rest is due to the weights of the types. All three share the principal components of the
    original training cells, and the regression takes the same number of steps on each.

    Parameters
    ----------
    atlas : path-like
        Real cells with splits; train and val cells train, test cells (held-out donors) test.
    augmented : path-like or list of path-like
        Of `cfgen_dist.generation.augment.augment`, made from `atlas`. Several, generated with several seeds, give the
        intervals.
    out : path-like
        Folder to write, on a disk or in a bucket: `classify.csv`, `classify.json`, `classify.png`.
    label : str
    seeds : int
        Repetitions on each set of training cells, which are averaged: a seed is an order of cells for the regression,
        and a draw of copies.

    Returns
    -------
    table : pandas.DataFrame
        A row per classifier and type: `train_cells`, `generated_cells` (as many copies), `test_cells`, `frequency`
        (share of the real training cells), the means of `f1_original`, `f1_copies`, `f1_generated`; of the generated
        cells' `gain` over the original ones and `gain_over_copies` the mean with `_low` and `_high`, and `n`, the
        number of distinct augmented atlases. The 95 % interval (Student's t) is over these; it is nan for one.
    summary : dict
        Per classifier: the macro F1 of each, the two gains of it, and Pearson's r between either gain and log10
        frequency, each with its interval and n.

    Raises
    ------
    BadInput
        A missing column, stores of other genes or other real cells, no test cells, an augmented atlas without
        generated cells, generated cells of a type without real training cells, an `out` that exists.
    """
    paths = [augmented] if isinstance(augmented, str | os.PathLike) else list(augmented)
    if seeds < 1:
        raise BadInput(f"seeds is {seeds}, expected at least 1")
    if not paths:
        raise BadInput("no augmented atlas is given; expected at least one, made by `augment()`")
    check_new(out, OURS)
    original = open_atlas(atlas)
    others = [open_atlas(path) for path in paths]
    for other in others:
        _check_pair(original, other, label)
    with new_folder(out, OURS) as folder:
        table, summary = _compare(original, others, label, seeds)
        table.to_csv(folder / "classify.csv", index=False)
        stated = {"atlas": shown(atlas), "augmented": list(map(shown, paths)), "label": label, "seeds": seeds}
        records = json.loads(table.to_json(orient="records", double_precision=15))  # nan becomes null
        text = json.dumps(stated | {"summary": _plain(summary), "types": records}, indent=1, allow_nan=False)
        (folder / "classify.json").write_text(text)
        plot_gains(table, summary, folder / "classify.png")
    return table, summary


def training_rows(atlas: Atlas, label: str) -> Ints:
    """Rows of the cells of the splits train and val that have a label."""
    training = np.isin(np.asarray(atlas.obs("split")).astype(str), ("train", "val"))
    return np.flatnonzero(training & (atlas.small_codes(label) >= 0))


@dataclass(frozen=True, eq=False)
class _Cells:
    """Some labelled cells of an atlas.

    Attributes
    ----------
    atlas : Atlas
    rows : int array (n,)
    names : array of str (n,)
        Their categories.
    points : float32 array (n, C)
        Their principal components.
    """

    atlas: Atlas
    rows: Ints
    names: Array
    points: Floats

    @classmethod
    def read(cls, atlas: Atlas, rows: Ints, label: str, moments: Moments) -> "_Cells":
        """Project the cells of these rows."""
        names = np.asarray(atlas.categories(label), dtype=str)[atlas.codes(label)[rows]]
        return cls(atlas, rows, names, project(atlas, rows, moments))


def _compare(
    original: Atlas, others: Sequence[Atlas], label: str, seeds: int
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Fit and score everything; the table and the summary of `classify`."""
    test_rows = original.rows(split="test")
    test_rows = test_rows[original.small_codes(label)[test_rows] >= 0]
    rows = training_rows(original, label)
    moments = Moments.fit(original, rows)
    real, test = (_Cells.read(original, some, label, moments) for some in (rows, test_rows))
    blocks = Blocks(original, test_rows)
    made = _distinct([_Cells.read(other, _generated_rows(other, label), label, moments) for other in others])
    in_training = _counts(original, rows, label)
    types = [str(name) for name in original.categories(label) if name in in_training and (test.names == name).any()]
    steps = steps_of(len(rows) + max(len(cells.rows) for cells in made))
    scores: list[dict[str, Any]] = []

    def score(kind: str, arm: str, number: int, seed: int, predicted: Array) -> None:
        f1 = f1_score(test.names, predicted, labels=types, average=None, zero_division=0)
        about = {"classifier": kind, "arm": arm, "atlas": number, "seed": seed}
        scores.extend(about | {"type": name, "f1": value} for name, value in zip(types, f1, strict=True))

    def neighbours(points: Sequence[Floats], names: Sequence[Array]) -> Array:
        return knn(np.concatenate(points), np.concatenate(names), test.points)

    with progress("classify", seeds * (1 + 2 * len(made)), "fits") as advance:
        score("knn", "original", -1, 0, neighbours([real.points], [real.names]))
        for seed in range(seeds):
            score("logistic", "original", -1, seed, logistic(original, rows, label, moments, blocks, seed, steps))
            advance()
        for number, cells in enumerate(made):
            score(
                "knn", "generated", number, 0,
                neighbours([real.points, cells.points], [real.names, cells.names]),
            )  # fmt: skip
            everything = training_rows(cells.atlas, label)
            for seed in range(seeds):
                copied = _copies(real.names, cells.names, generator(seed, Classification.COPIES, number))
                by_neighbours = neighbours(
                    [real.points, real.points[copied]], [real.names, real.names[copied]]
                )  # fmt: skip
                score("knn", "copies", number, seed, by_neighbours)
                both = np.concatenate([rows, rows[copied]])
                for arm, atlas, trained in (("copies", original, both), ("generated", cells.atlas, everything)):
                    by_regression = logistic(atlas, trained, label, moments, blocks, seed, steps)
                    score("logistic", arm, number, seed, by_regression)
                    advance()
    wide = _by_atlas(pd.DataFrame(scores))
    facts = _facts(made, types, in_training, test.names)
    wide["frequency"] = wide["type"].map({name: fact["frequency"] for name, fact in facts.items()})
    return _per_type(wide, facts, types), {kind: _overall(wide[wide["classifier"] == kind]) for kind in CLASSIFIERS}


def _generated_rows(atlas: Atlas, label: str) -> Ints:
    """Rows of the generated training cells."""
    rows = training_rows(atlas, label)
    return rows[np.asarray(atlas.obs("is_generated"), dtype=bool)[rows]]


def _copies(real: Array, wanted: Array, rng: np.random.Generator) -> Ints:
    """Positions of real cells to copy, drawn with replacement: as many of each type as in `wanted`, (len(wanted),)."""
    drawn = []
    for name, n in zip(*np.unique(wanted, return_counts=True), strict=True):
        drawn.append(rng.choice(np.flatnonzero(real == name), n))
    return np.concatenate(drawn)


def _distinct(made: Sequence[_Cells]) -> list[_Cells]:
    """Leave out generated cells that were given before: the same numbers twice are not two observations."""
    seen: dict[str, str] = {}
    distinct = []
    for cells in made:
        key = hashlib.sha256(cells.points.tobytes()).hexdigest()
        if key in seen:
            log.warning("%s: the same generated cells as in %s, counted once", cells.atlas.name, seen[key])
        else:
            seen[key] = cells.atlas.name
            distinct.append(cells)
    return distinct


def _by_atlas(scores: pd.DataFrame) -> pd.DataFrame:
    """A row per classifier, augmented atlas and type: the F1 of each arm, means over seeds, and the gains."""
    mean = scores.groupby(["arm", "classifier", "type", "atlas"])["f1"].mean()
    original = mean["original"].droplevel("atlas").rename("original").reset_index()
    table = pd.DataFrame({arm: mean[arm] for arm in ("copies", "generated")}).reset_index()
    table = table.merge(original, on=["classifier", "type"])
    table["gain"] = table["generated"] - table["original"]
    table["gain_over_copies"] = table["generated"] - table["copies"]
    return table


def _facts(
    made: Sequence[_Cells], types: Sequence[str], in_training: Mapping[str, int], truth: Array
) -> dict[str, dict[str, Any]]:
    """Type → how many training, generated (mean over the atlases) and test cells it has."""
    n_real = sum(in_training.values())
    return {
        name: {
            "train_cells": int(in_training[name]),
            "generated_cells": round(float(np.mean([(cells.names == name).sum() for cells in made]))),
            "test_cells": int((truth == name).sum()),
            "frequency": float(in_training[name] / n_real),
        }
        for name in types
    }


def _per_type(wide: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], types: Sequence[str]) -> pd.DataFrame:
    """The table, rarest types first."""
    rows = []
    for kind in CLASSIFIERS:
        for name in sorted(types, key=lambda name: facts[name]["train_cells"]):
            cells = wide[(wide["classifier"] == kind) & (wide["type"] == name)]
            row = {"classifier": kind, "type": name, **facts[name]}
            row |= {f"f1_{arm}": cells[arm].mean() for arm in ARMS}
            for gain in ("gain", "gain_over_copies"):
                mean, low, high = interval(cells[gain])
                row |= {gain: mean, f"{gain}_low": low, f"{gain}_high": high}
            rows.append(row | {"n": len(cells)})
    return pd.DataFrame(rows)


def _overall(wide: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Macro F1 and Pearson's r of one classifier, over the augmented atlases."""
    by_atlas = wide.groupby("atlas")
    values = {f"macro_f1_{arm}": by_atlas[arm].mean() for arm in ARMS}
    for gain, r in (("gain", "pearson_r"), ("gain_over_copies", "pearson_r_over_copies")):
        values[f"macro_f1_{gain}"] = by_atlas[gain].mean()
        values[r] = [correlation(np.log10(cells["frequency"]), cells[gain]) for _, cells in by_atlas]
    summary = {name: interval(each)._asdict() | {"n": len(each)} for name, each in values.items()}
    summary["macro_f1_original"] |= {"low": float("nan"), "high": float("nan"), "n": 1}  # one training set
    return summary


def _plain(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The summary as JSON takes it: nan becomes None."""
    return {
        kind: {
            name: {key: None if np.isnan(number) else number for key, number in value.items()}
            for name, value in values.items()
        }
        for kind, values in summary.items()
    }


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
    real = _counts(original, training_rows(original, label), label)
    if len(real) < 2:
        raise BadInput(f"{original.name}: fewer than two categories of {label!r} among its training cells")
    made = _generated_rows(other, label)
    if len(made) == 0:
        raise BadInput(f"{other.name}: none of its generated cells is a training cell with a {label!r}; expected some")
    for name, n in _counts(other, made, label).items():
        if name not in real:
            raise BadInput(
                f"{other.name}: {n:,} generated cells of {name!r}, of which {original.name} has no training cell to "
                "copy; expected types with real training cells"
            )
    kept = _counts(other, np.setdiff1d(training_rows(other, label), made), label)
    for name in {**real, **kept}:
        if real.get(name, 0) != kept.get(name, 0):
            raise BadInput(
                f"{other.name}: {kept.get(name, 0):,} real training cells of {name!r}, but {original.name} has "
                f"{real.get(name, 0):,}; expected an atlas made from it by `augment()`"
            )


def _counts(atlas: Atlas, rows: Ints, label: str) -> dict[str, int]:
    """Category → how many of the cells it has, if any."""
    n_of = np.bincount(atlas.codes(label)[rows], minlength=len(atlas.categories(label)))
    return {str(name): int(n) for name, n in zip(atlas.categories(label), n_of, strict=True) if n}
