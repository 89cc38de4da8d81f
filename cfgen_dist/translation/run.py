"""Translate real cells: the same cells as if they had another label, as an atlas, with scores before and after."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.bundle import CFGen, for_workers, load_model
from cfgen_dist.evaluation.metrics.distances import mmd_linear, wasserstein
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.generation.options import Sampling, TranslationOptions
from cfgen_dist.generation.store import Content, Work, write_store
from cfgen_dist.translation.scores import FEW_CELLS, batch_mixing, label_conservation
from cfgen_dist.translation.shard import TranslationPlan, plan_translation, source_rows, translate_shard
from cfgen_dist.workers.options import Workers, build, takes
from data_loaders import Atlas, open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.seeds import Generation, generator
from data_loaders.storage import is_remote, place
from data_loaders.storage.address import on_disk
from data_loaders.types import Array, Floats, Ints, PathLike
from data_loaders.vouchers import write_sealed

SCORED_CELLS = 3000  # silhouette widths need all distances: quadratic


@takes(TranslationOptions, Sampling, Workers)
def translate(
    bundle: PathLike | CFGen,
    atlas: PathLike,
    out: PathLike,
    to: Mapping[str, str],
    *,
    label: str | None = None,
    split: str | None = None,
    where: Mapping[str, str] | None = None,
    resume: bool = False,
    **options: Unpack[TranslationOptions],
) -> dict[str, Any]:
    """Write an atlas of the cells of `atlas` as if they had other labels.

    Each cell is encoded, carried to noise under its own labels and back under the labels wanted, decoded with its own
    size factor, and its counts drawn. Cells that have the wanted label already are carried there and back like all
    others. The counts depend on the bundle, the atlas and the arguments alone, not on the workers.

    obs of the store: the labels of the atlas, those of `to` changed; `source_NAME` for each of them, what it was;
    `source_row`, the row in `atlas`; `split`, as it was; `shard`, `is_generated` (True).

    Parameters
    ----------
    bundle : path-like or CFGen
    atlas : path-like
        Real cells with the genes of the model, not necessarily those it was trained on.
    out : path-like
        On a disk that all workers see, like `atlas`, or in a bucket. The scores go to `OUT.scores.json` as well.
    to : dict of str to str
        Attribute → category wanted.
    label : str, optional
        Label column that must be kept, for the scores; by default `cell_type`, or the first other label there is.
    split : {"train", "val", "test"}, optional
        Which cells; all by default.
    where : dict of str to str, optional
        Obs column → category of the cells to translate, as `{"condition": "ctrl"}`.
    resume : bool
        Finish an interrupted translation of the same cells; a finished one is left as it is.
    **options
        How cells are carried, `guidance` (both on the way to noise and back), `solver`, `steps`, `seed`, `shard_size`,
        `device`, as in `cfgen_dist.generation.options.Sampling`; who does the work, `ray`, `workers`, as in
        `cfgen_dist.workers.options.Workers`.

    Returns
    -------
    dict
        As of `generate`, with `scores` as `score_translation` returns them.

    Raises
    ------
    BadInput
        As of `plan_translation`; a label column that does not exist or is translated; an output that exists, or parts
        of another plan.
    """
    bundle = for_workers(bundle)
    model = load_model(bundle)
    path = str(atlas) if is_remote(atlas) else str(on_disk(atlas).absolute())
    source = open_atlas(path)
    plan = plan_translation(model, source, to, split=split, where=where, sampling=build(Sampling, options))
    label = _kept_label(source, to, label)
    note = {"plan": plan.to_dict(), "kind": "translation"}
    sample = partial(translate_shard, atlas=path)
    work = Work(partial(load_model, bundle, plan.device), plan, note, sample)
    summary = write_store(out, model, work, _content(model, source, plan), build(Workers, options), resume)
    scores = score_translation(source, open_atlas(out), plan, label)
    target = place(out)
    write_sealed(str(target.beside(target.name + ".scores.json")), scores, indent=1, any_number=False)
    return summary | {"scores": scores}


def _content(model: CFGen, source: Atlas, plan: TranslationPlan) -> Content:
    """What the store holds beside the counts: the label columns of the source, and what was changed in them."""
    rows = source_rows(source, plan.split, plan.where)
    columns = [*source.labels, *(name for name in [*model.labels, *plan.to] if name not in source.labels)]
    columns = list(dict.fromkeys(name for name in columns if name in plan.to or name in source.obs_columns))
    return Content(
        genes=pd.DataFrame(index=source.genes),
        labels=[name for name in columns if name in plan.to or (source.small_codes(name)[rows] >= 0).all()],
        card={
            "sources": [{"path": source.name, "n_cells": source.n_cells}],
            "notes": ["translated by CFGen to " + ", ".join(f"{name}={value}" for name, value in plan.to.items())],
            "options": {"in_order": not source.is_shuffled},
        },
        dress=partial(_dress, source=source, rows=rows, plan=plan, columns=columns),
    )


def _dress(obs: pd.DataFrame, source: Atlas, rows: Ints, plan: TranslationPlan, columns: Sequence[str]) -> pd.DataFrame:
    """Obs of generated cells with what is known of the cells they come from."""
    here = rows[slice(*plan.shard_bounds(int(obs["shard"].iloc[0])))]
    dressed = pd.DataFrame(index=pd.Index([f"translated-{row}" for row in here], name="cell"))
    for name in columns:
        dressed[name] = obs[name].array if name in plan.to else _column(source, name, here)
    for name in (name for name in plan.to if name in source.obs_columns):
        dressed[f"source_{name}"] = _column(source, name, here)
    if "split" in source.obs_columns:
        dressed["split"] = _column(source, "split", here)
    return dressed.assign(source_row=here, shard=obs["shard"].array, is_generated=True)


def _column(source: Atlas, name: str, rows: Ints) -> pd.Categorical:
    """A label column of some cells as a Categorical."""
    return pd.Categorical.from_codes(source.small_codes(name)[rows], categories=source.categories(name))


def score_translation(
    source: Atlas, translated: Atlas, plan: TranslationPlan, label: str | None = None
) -> dict[str, Any]:
    """Scores of the cells before and after, on at most 3,000 of them.

    Parameters
    ----------
    source, translated : Atlas
    plan : TranslationPlan
    label : str, optional
        The column that must be kept.

    Returns
    -------
    dict
        `before` and `after`, each with the scores of `cfgen_dist.translation.scores`, the batch of a cell being what it
        was before in the columns of `plan.to`, and `target_w2` and `target_mmd`: mean over labels of the distances
        between the cells that were not of the target and real cells that are, where both are at least 10: those
        among the cells to translate, or where there are none those of the whole atlas that agree with `where`
        otherwise.
        `cells` scored, `batch` and `label` column. All in 30 principal components of the real cells, both those to
        translate and those of the target. None where a score does not exist.
    """
    rng = generator(plan.seed, Generation.TRANSLATION)
    rows = source_rows(source, plan.split, plan.where)
    known = np.flatnonzero(source.small_codes(label)[rows] >= 0) if label else np.arange(len(rows))
    chosen = np.sort(rng.choice(known, min(SCORED_CELLS, len(known)), replace=False))
    names = [name for name in plan.to if name in source.obs_columns]
    batch = _joined(source, names, rows[chosen])
    kinds = _joined(source, [label] if label else [], rows[chosen])
    counts = {"before": source.read(rows[chosen]).to_scipy(), "after": translated.read(chosen).to_scipy()}
    is_target = batch == " / ".join(plan.to[name] for name in names)
    target, target_kinds = counts["before"][is_target], kinds[is_target]
    if not is_target.any() and len(names) == len(plan.to):
        elsewhere = _target_rows(source, plan, rng)
        target, target_kinds = source.read(elsewhere).to_scipy(), _joined(source, [label] if label else [], elsewhere)
    space = Space.fit(sparse.vstack([counts["before"], target[: 0 if is_target.any() else None]], format="csr"))
    real = {kind: space.project(target[target_kinds == kind]) for kind in np.unique(target_kinds)}
    scores: dict[str, Any] = {"cells": len(chosen), "batch": " / ".join(plan.to), "label": label}
    for name, matrix in counts.items():
        cells = space.project(matrix)
        values = batch_mixing(cells, batch, kinds)
        values |= label_conservation(cells, kinds, plan.seed)
        values |= _target_distance(cells[~is_target], kinds[~is_target], real, rng)
        scores[name] = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
    return scores


def _target_rows(source: Atlas, plan: TranslationPlan, rng: np.random.Generator) -> Ints:
    """Rows of at most 3,000 cells of the whole atlas that have the labels wanted, and those of `where` otherwise."""
    wanted = {**plan.where, **plan.to}
    if any(category not in source.categories(name) for name, category in wanted.items()):
        return np.arange(0)
    rows = source.rows(**wanted)
    return np.sort(rng.choice(rows, min(SCORED_CELLS, len(rows)), replace=False))


def _target_distance(
    cells: Floats, kinds: Array, real: Mapping[str, Floats], rng: np.random.Generator
) -> dict[str, float]:
    """Mean over labels of the distances between cells and the real cells of the target."""
    w2, mmd = [], []
    for kind, others in real.items():
        some = cells[kinds == kind]
        if min(len(some), len(others)) >= FEW_CELLS:
            w2.append(wasserstein(others, some, rng)["w2"])
            mmd.append(mmd_linear(others, some))
    return {
        name: float(np.mean(values)) if values else np.nan for name, values in (("target_w2", w2), ("target_mmd", mmd))
    }


def _joined(source: Atlas, names: Sequence[str], rows: Ints) -> Array:
    """The labels of some cells in several columns as one text each, array of str (n,)."""
    joined = np.full(len(rows), "", dtype=object)
    for k, name in enumerate(names):
        words = np.array([*source.categories(name), "missing"], dtype=object)[source.small_codes(name)[rows]]
        joined = words if k == 0 else joined + " / " + words
    return joined.astype(str)


def _kept_label(source: Atlas, to: Mapping[str, str], label: str | None) -> str | None:
    """The column whose conservation is scored; None when there is no other than those translated."""
    if label is None:
        others = [name for name in source.labels if name not in to]
        return "cell_type" if "cell_type" in others else next(iter(others), None)
    if label not in source.obs_columns:
        raise BadInput(f"{source.name}: no obs column {label!r}, {nearest(label, source.obs_columns)}")
    if label in to:
        raise BadInput(f"label: {label!r} is translated itself; expected a column that must be kept")
    return label
