"""Augment an atlas: its real cells, and generated cells of its rare types, as one training atlas."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
import pandas as pd

from cfgen_dist.bundle import CFGen, for_workers, load_model
from cfgen_dist.generation.labels import check_genes
from cfgen_dist.generation.options import GenerationOptions, Sampling
from cfgen_dist.generation.plan import make_plan, write_plan
from cfgen_dist.generation.store import CARD, Content, Work, write_store
from cfgen_dist.workers.options import Workers, build, takes
from data_loaders import Atlas, AtlasWriter, open_atlas
from data_loaders.card import SPLITS
from data_loaders.errors import BadInput, nearest
from data_loaders.progress import progress
from data_loaders.seeds import Generation, generator
from data_loaders.storage import shown
from data_loaders.types import Floats, PathLike

log = logging.getLogger("cfgen_dist")
SLICE = 4096  # real cells copied at a time


@takes(GenerationOptions, Sampling, Workers)
def augment(
    bundle: PathLike | CFGen,
    atlas: PathLike,
    out: PathLike,
    total: int,
    *,
    balance: str = "cell_type",
    temperature: float = 1.0,
    resume: bool = False,
    **options: Unpack[GenerationOptions],
) -> dict[str, Any]:
    """Write an atlas of all cells of `atlas` and as many generated training cells as make `total` training cells.

    The real cells come first, with their splits: test cells stay test cells. Generated cells have `split` train and
    `is_generated` True; label columns that the model was not trained on are missing in them. Real cells are copied in
    slices and generated ones in shards, so memory does not grow with either, beyond the small columns.

    Parameters
    ----------
    bundle : path-like or CFGen
        Trained on the training cells of `atlas`.
    atlas : path-like
    out : path-like
        On a disk that all workers see, or in a bucket, like `bundle` and `atlas`.
    total : int
        Real and generated training cells (splits train and val) together.
    balance : str
        Label column whose rare categories get most generated cells.
    temperature : float
        As in `type_proportions`.
    resume : bool
        Finish an interrupted augmentation of the same atlas and plan; a finished one is left as it is.
    **options
        As in `cfgen_dist.generation.run.generate`.

    Returns
    -------
    dict
        As of `generate`, for the generated cells, with `real` (training cells) and `types` {category: cells}.

    Raises
    ------
    BadInput
        Genes or categories that the model does not know, a column that is missing, a total that is reached already, a
        temperature that is not positive, or what `generate` refuses.
    """
    bundle = for_workers(bundle)
    model = load_model(bundle)
    source = open_atlas(atlas)
    _check(source, model, balance, temperature)
    training = np.isin(np.asarray(source.obs("split")).astype(str), ("train", "val"))
    codes = source.codes(balance)[training]
    real = np.bincount(codes[codes >= 0], minlength=len(source.categories(balance)))  # cells without a type stay too
    types = dict(zip(source.categories(balance), real.tolist(), strict=True))
    n_generated = total - len(codes)
    if n_generated < 1:
        raise BadInput(
            f"total is {total:,}, expected more than the {len(codes):,} real training cells of {shown(atlas)}"
        )
    sampling = build(Sampling, options)
    table = _wanted(model, balance, types, n_generated, temperature, sampling.seed)
    plan = make_plan(model, labels=table, sampling=sampling)
    made_of_each = table.groupby(balance)["n"].sum().to_dict()
    facts = {
        "real": len(codes),
        "types": {name: {"real": n, "generated": int(made_of_each.get(name, 0))} for name, n in types.items()},
    }
    how = {"balance": balance, "temperature": temperature, "total": total, "atlas": source.fingerprint}
    extra = {name: source.categories(name) for name in source.labels if name not in model.labels}
    work = Work(partial(load_model, bundle, plan.device), plan, {"plan": plan.to_dict(), "augmentation": how})
    content = Content(
        genes=pd.DataFrame(index=source.genes),
        labels=list(model.labels),
        card={"sources": [{"path": shown(atlas), "n_cells": source.n_cells}], "notes": CARD["notes"]},
        dress=partial(_dress, model=model, extra=extra),
        before=partial(_copy, source, [*model.labels, *extra], list(model.features)),
    )
    summary = write_store(out, model, work, content, build(Workers, options), resume)
    write_plan(out, plan)
    return facts | summary


def type_proportions(counts: Sequence[int] | Floats, temperature: float = 1.0) -> Floats:
    """How generated cells are shared out among types with n_k real cells: p_k proportional to (1 / n_k)^(1 / T).

    T = 1 is the paper's choice, p_k proportional to 1 / n_k, normalised by its sum (a softmax of 1 / n_k, as in the
    public code, is nearly uniform). Larger T comes nearer to equal shares, smaller T favours the rarest more.

    Parameters
    ----------
    counts : (C,) array
        Positive.
    temperature : float

    Returns
    -------
    (C,) float64 array, sum 1
    """
    logs = -np.log(np.asarray(counts, dtype=np.float64)) / temperature
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _wanted(
    model: CFGen, balance: str, types: Mapping[str, int], n: int, temperature: float, seed: int
) -> pd.DataFrame:
    """Table of label combinations and n: types by their proportions, the other labels as observed inside the type."""
    seen = {name: count for name, count in types.items() if count}
    for name in seen:
        model.codes_of(balance, name)
    p = dict(zip(seen, type_proportions(list(seen.values()), temperature), strict=True))
    combinations, observed = model.observed()
    table = pd.DataFrame(
        {
            name: np.asarray(categories, dtype=object)[combinations[:, k]]
            for k, (name, categories) in enumerate(model.labels.items())
        }
    )
    unseen = sorted(set(seen) - set(table[balance]))
    if unseen:
        raise BadInput(f"{balance}: the model saw no training cell of type {unseen[0]!r}, so it cannot generate it")
    inside = observed / pd.Series(observed).groupby(table[balance]).transform("sum").to_numpy()
    weights = table[balance].map(p).fillna(0.0).to_numpy() * inside
    rng = generator(seed, Generation.BALANCE)
    return table.assign(n=rng.multinomial(n, weights / weights.sum()))


def _check(source: Atlas, model: CFGen, balance: str, temperature: float) -> None:
    """Refuse an atlas that the model does not fit, before anything starts."""
    if not temperature > 0 or not np.isfinite(temperature):
        raise BadInput(f"temperature is {temperature}, expected a positive number")
    if balance not in model.labels:
        raise BadInput(f"balance: the model was not trained on {balance!r}, {nearest(balance, model.labels)}")
    check_genes(source, model)
    trained_on = model.provenance.get("atlas", {}).get("fingerprint")
    if trained_on is not None and trained_on != source.fingerprint:
        log.warning(
            "%s is not the atlas that the model was trained on: if its test cells were among the training cells, "
            "generated cells carry what is known of them", source.name,
        )  # fmt: skip
    for name, names in model.features.items():
        if list(source.features(name).index) != list(names):
            raise BadInput(
                f"{source.name}: its features of modality {name!r} are not the {len(names):,} of the model; expected "
                "the atlas that the model was trained on"
            )
    for name in (*model.labels, "split"):
        if name not in source.obs_columns:
            raise BadInput(f"{source.name}: no obs column {name!r}, {nearest(name, source.obs_columns)}")
    if "is_generated" in source.obs_columns and np.asarray(source.obs("is_generated")).any():
        raise BadInput(f"{source.name} holds generated cells already, expected an atlas of real cells")


def _copy(source: Atlas, labels: Sequence[str], modalities: Sequence[str], writer: AtlasWriter) -> None:
    """Append all cells of an atlas, a slice at a time."""
    names = source.obs_names()
    codes = {name: source.small_codes(name) for name in [*labels, "split"]}
    with progress("copy real cells", source.n_cells, "cells") as advance:
        for start in range(0, source.n_cells, SLICE):
            rows = np.arange(start, min(start + SLICE, source.n_cells))
            obs = pd.DataFrame(index=pd.Index(names[rows], name="cell"))
            for name in codes:
                obs[name] = pd.Categorical.from_codes(codes[name][rows], categories=source.categories(name))
            others = {name: source.read_sparse(rows, name) for name in modalities}
            writer.append(source.read_sparse(rows), obs.assign(shard=np.int32(-1), is_generated=False), others)
            advance(len(rows))


def _dress(obs: pd.DataFrame, model: CFGen, extra: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Obs of generated cells with the columns of real ones, in their order."""
    for name, categories in extra.items():
        obs[name] = pd.Categorical.from_codes(np.full(len(obs), -1), categories=categories)
    obs["split"] = pd.Categorical(["train"] * len(obs), categories=SPLITS)
    return obs[[*model.labels, *extra, "split", "shard", "is_generated"]]
