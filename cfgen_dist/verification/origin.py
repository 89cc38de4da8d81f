"""Shards of a generated store, made again from model and plan and compared: a proof of where cells come from."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from cfgen_dist.bundle import CFGen, load_model
from cfgen_dist.generation.plan import Plan, plan_of
from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput
from data_loaders.progress import progress
from data_loaders.reading.atlas import Atlas, open_atlas
from data_loaders.records import Record, one_line, parse_json
from data_loaders.seeds import Generation, generator
from data_loaders.types import Ints, PathLike


def verify_shards(
    store: PathLike, run: PathLike, n: int, seed: int, workers: int | None
) -> tuple[list[int], int, list[str]]:
    """Make random shards of a generated store again.

    Parameters
    ----------
    store : path-like
    run : path-like
        The bundle that it was made with, or the run that holds it.
    n : int
        How many shards; all when there are fewer.
    seed : int
        Chooses them.
    workers : int, optional
        Threads.

    Returns
    -------
    shards : list of int
    n_cells : int
        In them.
    faults : list of str
        One for each that differs in a count or a label.

    Raises
    ------
    BadInput
        The model is another one than the plan's, or the store was not made by `generate` or `augment`.
    """
    atlas, model = open_atlas(store), load_model(run)
    plan = _plan(atlas, model, run)
    numbers = np.asarray(atlas.obs("shard")), np.asarray(atlas.obs("is_generated"), bool)
    rng = generator(seed, Generation.VERIFICATION)
    chosen = np.sort(rng.choice(plan.n_shards, min(n, plan.n_shards), replace=False)).tolist()
    rows: dict[int, Ints] = {shard: np.flatnonzero((numbers[0] == shard) & numbers[1]) for shard in chosen}
    n_cells = sum(map(plan.shard_cells, chosen))
    faults = []
    compare = partial(_difference, atlas=atlas, rows=rows, plan=plan)
    with (
        open_pool(Workers(None, workers), plan.device) as pool,
        progress("make again", n_cells, "cells") as advance,
    ):
        for shard, fault in pool(compare, chosen, partial(model.to, plan.device)):
            if fault is not None:
                faults.append(f"shard {shard} is not what the model and the plan make ({fault})")
            advance(plan.shard_cells(shard))
    return chosen, n_cells, faults


def _plan(atlas: Atlas, model: CFGen, run: PathLike) -> Plan:
    """The plan in the store, if it is one for this model."""
    note: dict[str, Any] = parse_json(str(atlas.uns("generation")), Record, f"{atlas.name}: uns/generation")
    values = note.get("plan")
    fields = {each.name: each.default is dataclasses.MISSING for each in dataclasses.fields(Plan)}  # whether it must be
    required = {name for name, must in fields.items() if must}
    if not isinstance(values, dict) or not required <= set(values) <= set(fields):
        kind = note.get("kind", "other cells")
        raise BadInput(f"{atlas.name}: its plan is of a {kind}; expected one of `generate()` or `augment()`")
    if values["bundle"] != model.digest:
        raise BadInput(
            f"{atlas.name} was made with the bundle {one_line(values['bundle'])[:12]}, that of {run} is "
            f"{model.digest[:12]}; give the run or bundle that made it"
        )
    return plan_of(values, model, f"{atlas.name}: its plan")


def _difference(model: CFGen, shard: int, *, atlas: Atlas, rows: dict[int, Ints], plan: Plan) -> str | None:
    """In what a shard of the store differs from the one that is made again; None when in nothing."""
    here = rows[shard]
    if len(here) != plan.shard_cells(shard):
        return f"{len(here):,} cells, expected {plan.shard_cells(shard):,}"
    counts, codes = sample_shard(model, shard, plan)
    for k, (name, categories) in enumerate(model.labels.items()):
        found = np.asarray([*atlas.categories(name), None], dtype=object)[atlas.small_codes(name)[here]]
        differ = int((found != np.asarray(categories, dtype=object)[codes[:, k]]).sum())
        if differ:
            return f"{differ:,} of {len(here):,} cells have another {name}"
    for modality, made in counts.items():
        kept = atlas.read_sparse(here, modality).to_scipy()
        differ = int(np.unique((kept.astype(np.int64) != made.astype(np.int64)).nonzero()[0]).size)
        if differ:
            return f"{differ:,} of {len(here):,} cells have other counts of {modality}"
    return None
