"""Translate real cells: the same cells as if they had another label, as an atlas, with scores before and after."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cfgen_dist.bundle import CFGen, load_model
from cfgen_dist.evaluation.metrics.distances import mmd_linear, wasserstein
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.generation.plan import SHARD_SIZE
from cfgen_dist.generation.run import open_parts
from cfgen_dist.generation.store import append_parts, feature_tables, finished, make_parts, provenance, summarise
from cfgen_dist.translation.scores import FEW_CELLS, batch_mixing, label_conservation
from cfgen_dist.translation.shard import plan_translation, source_rows, translate_shard
from cfgen_dist.workers.pool import open_pool
from data_loaders import AtlasWriter, open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.files import write_whole
from data_loaders.seeds import Generation, generator

SCORED_CELLS = 3000  # silhouette widths need all distances: quadratic


def translate(
    bundle, atlas, out, to, *, label=None, split=None, guidance=None, solver=None, steps=None, seed=0,
    shard_size=SHARD_SIZE, device="cpu", resume=False, ray=None, workers=None,
):  # fmt: skip
    """Write an atlas of the cells of `atlas` as if they had other labels.

    Each cell is encoded, carried to noise under its own labels and back under the labels wanted, decoded with its own
    size factor, and its counts drawn. Cells that have the wanted label already are carried there and back like all
    others. The counts depend on the bundle, the atlas and the arguments up to `device` alone, not on the workers.

    obs of the store: the labels of the atlas, those of `to` changed; `source_NAME` for each of them, what it was;
    `source_row`, the row in `atlas`; `split`, as it was; `shard`, `is_generated` (True).

    Parameters
    ----------
    bundle : path-like or CFGen
    atlas : path-like
        Real cells with the genes of the model, not necessarily those it was trained on.
    out : path-like
        On a disk that all workers see, like `atlas`. The scores are written to `OUT.scores.json` as well.
    to : dict of str to str
        Attribute → category wanted.
    label : str, optional
        Label column that must be kept, for the scores; by default `cell_type`, or the first other label there is.
    split : {"train", "val", "test"}, optional
        Which cells; all by default.
    guidance : dict of str to float, optional
        As in `CFGen.generate`, both on the way to noise and back.
    solver, steps, seed, shard_size, device, resume, ray, workers
        As in `cfgen_dist.generation.run.generate`.

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
    bundle = bundle if isinstance(bundle, CFGen) else Path(bundle).absolute()  # workers have folders of their own
    model = load_model(bundle)
    path = str(Path(atlas).absolute())
    source = open_atlas(path)
    plan = plan_translation(
        model, source, to, split=split, guidance=guidance, solver=solver, steps=steps, seed=seed,
        shard_size=shard_size, device=device,
    )  # fmt: skip
    label = _kept_label(source, to, label)
    note = {"plan": plan.to_dict(), "kind": "translation"}
    summary = {"path": str(out), "cells": plan.n_cells, "seconds": 0.0, "cells_per_second": 0.0}
    if not finished(out, note, resume):
        summary = _write(bundle, model, source, out, plan, note, (ray, workers, resume))
    scores = score_translation(source, open_atlas(out), plan, label)
    beside = Path(out).with_name(Path(out).name + ".scores.json")
    write_whole(beside, lambda file: file.write(json.dumps(scores, indent=1, allow_nan=False).encode()))
    return summary | {"scores": scores}


def _write(bundle, model, source, out, plan, note, how):
    """Make the shards and put them together; the summary of what was done."""
    ray, workers, resume = how
    sample = partial(translate_shard, atlas=source.name)
    started = time.monotonic()
    with open_pool(ray, workers, plan.device) as pool:
        parts = open_parts(out, note, resume)
        records, made = make_parts(partial(load_model, bundle, plan.device), plan, parts, pool, sample)
    summary = summarise(out, model, plan, records, made)
    rows = source_rows(source, plan.split)
    columns = [*source.labels, *(name for name in [*model.labels, *plan.to] if name not in source.labels)]
    columns = list(dict.fromkeys(name for name in columns if name in plan.to or name in source.obs_columns))
    whole = [name for name in columns if name in plan.to or (source.small_codes(name)[rows] >= 0).all()]
    var = pd.DataFrame(index=source.genes)
    with AtlasWriter(out, var, labels=whole, modalities=feature_tables(model)) as writer:
        dress = partial(_dress, source=source, rows=rows, plan=plan, columns=columns)
        append_parts(writer, model, plan, parts, records, dress, sample)
        uns = {"generation": provenance(model, note | {"sha256": summary["sha256"]})}
        card = {
            "sources": [{"path": source.name, "n_cells": source.n_cells}],
            "notes": ["translated by CFGen to " + ", ".join(f"{name}={value}" for name, value in plan.to.items())],
            "options": {"in_order": not source.is_shuffled},
        }
        writer.close(uns=uns, provenance=card)
    shutil.rmtree(parts)
    seconds = time.monotonic() - started
    return summary | {"seconds": seconds, "cells_per_second": plan.n_cells / seconds}


def _dress(obs, source, rows, plan, columns):
    """obs of generated cells with what is known of the cells they come from."""
    own = rows[slice(*plan.shard_bounds(int(obs["shard"].iloc[0])))]
    dressed = pd.DataFrame(index=pd.Index([f"translated-{row}" for row in own], name="cell"))
    for name in columns:
        dressed[name] = obs[name].array if name in plan.to else _column(source, name, own)
    for name in (name for name in plan.to if name in source.obs_columns):
        dressed[f"source_{name}"] = _column(source, name, own)
    if "split" in source.obs_columns:
        dressed["split"] = _column(source, "split", own)
    return dressed.assign(source_row=own, shard=obs["shard"].array, is_generated=True)


def _column(source, name, rows):
    """A label column of some cells as a Categorical."""
    return pd.Categorical.from_codes(source.small_codes(name)[rows], categories=source.categories(name))


def score_translation(source, translated, plan, label=None):
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
        between the cells that were not of the target and real cells that are (of the same split), where both are at
        least 10.
        `cells` scored, `batch` and `label` column. All in 30 principal components of the real cells, both those to
        translate and those of the target. None where a score does not exist.
    """
    rng = generator(plan.seed, Generation.TRANSLATION)
    rows = source_rows(source, plan.split)
    known = np.flatnonzero(source.small_codes(label)[rows] >= 0) if label else np.arange(len(rows))
    chosen = np.sort(rng.choice(known, min(SCORED_CELLS, len(known)), replace=False))
    names = [name for name in plan.to if name in source.obs_columns]
    batch = _joined(source, names, rows[chosen])
    kinds = _joined(source, [label] if label else [], rows[chosen])
    counts = {"before": source.read(rows[chosen]).to_scipy(), "after": translated.read(chosen).to_scipy()}
    space = Space.fit(counts["before"])
    is_target = batch == " / ".join(plan.to[name] for name in names)
    real = {kind: space.project(counts["before"][is_target & (kinds == kind)]) for kind in np.unique(kinds)}
    scores = {"cells": len(chosen), "batch": " / ".join(plan.to), "label": label}
    for name, own in counts.items():
        cells = space.project(own)
        values = batch_mixing(cells, batch, kinds)
        values |= label_conservation(cells, kinds, plan.seed)
        values |= _target_distance(cells[~is_target], kinds[~is_target], real, rng)
        scores[name] = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
    return scores


def _target_distance(cells, kinds, real, rng):
    """Mean over labels of the distances between cells and the real cells of the target."""
    w2, mmd = [], []
    for kind, others in real.items():
        own = cells[kinds == kind]
        if min(len(own), len(others)) >= FEW_CELLS:
            w2.append(wasserstein(others, own, rng)["w2"])
            mmd.append(mmd_linear(others, own))
    return {"target_w2": np.mean(w2) if w2 else np.nan, "target_mmd": np.mean(mmd) if mmd else np.nan}


def _joined(source, names, rows):
    """The labels of some cells in several columns as one text each, array of str (n,)."""
    joined = np.full(len(rows), "", dtype=object)
    for k, name in enumerate(names):
        own = np.array([*source.categories(name), "missing"], dtype=object)[source.small_codes(name)[rows]]
        joined = own if k == 0 else joined + " / " + own
    return joined.astype(str)


def _kept_label(source, to, label):
    """The column whose conservation is scored; None when there is no other than those translated."""
    if label is None:
        others = [name for name in source.labels if name not in to]
        return "cell_type" if "cell_type" in others else next(iter(others), None)
    if label not in source.obs_columns:
        raise BadInput(f"{source.name}: no obs column {label!r}, {nearest(label, source.obs_columns)}")
    if label in to:
        raise BadInput(f"label: {label!r} is translated itself; expected a column that must be kept")
    return label
