"""Generate any number of cells: plan, shards committed one by one on any workers, one atlas store at the end."""

import logging
import shutil
import time
from functools import partial
from pathlib import Path

import pandas as pd

from cfgen_dist.bundle import CFGen, load_model
from cfgen_dist.generation.plan import SHARD_SIZE, make_plan, read_plan
from cfgen_dist.generation.store import (
    CARD,
    append_parts,
    feature_tables,
    finished,
    make_parts,
    provenance,
    summarise,
    write_plan,
)
from cfgen_dist.workers.parts import open_parts
from cfgen_dist.workers.pool import open_pool
from data_loaders import AtlasWriter

log = logging.getLogger("cfgen_dist")


def generate(
    bundle, out, cells=None, *, labels=None, guidance=None, size_factor=None, solver=None, steps=None, seed=0,
    shard_size=SHARD_SIZE, device="cpu", plan=None, resume=False, ray=None, workers=None,
):  # fmt: skip
    """Write a generated atlas.

    Shards are committed to `OUT.parts` as they finish; when all are there they are put together as one AnnData-Zarr
    store and the parts are removed. The counts depend on the bundle and the plan alone: not on the workers, their
    number, their deaths or their order. The plan is kept in `uns["generation"]` and beside the store as
    `OUT.plan.json`.

    Parameters
    ----------
    bundle : path-like or CFGen
    out : path-like
        On a disk that all workers see.
    cells : int
    labels, guidance, solver, steps, seed
        As in `CFGen.generate`.
    size_factor : {"lognormal", "resample"}, optional
        Law of the size factors; the bundle's by default.
    shard_size : int
        Cells per shard.
    device : {"cpu", "cuda"}
        Where the networks run; counts are drawn on the CPU. With Ray each actor takes an eighth of a GPU.
    plan : path-like, optional
        The plan of an earlier generation, in place of everything above but `bundle` and `out`.
    resume : bool
        Finish an interrupted generation of the same plan; a finished one is left as it is.
    ray : {None, "auto", "local"} or str
        Where the workers are: None is threads of this process, else see `cfgen_dist.workers.cluster.connect`.
    workers : int, optional
        By default one a core.

    Returns
    -------
    dict
        path, cells, seconds, cells_per_second, sha256 (over counts and labels), mean_counts (of a cell), zeros (share
        of the matrix), shards_made, shards_kept.

    Raises
    ------
    BadInput
        An impossible request, an output that exists, or parts of another plan.
    """
    bundle = bundle if isinstance(bundle, CFGen) else Path(bundle).absolute()  # workers have folders of their own
    model = load_model(bundle)
    if plan is not None:
        plan = read_plan(plan, model)
    else:
        plan = make_plan(
            model, cells, labels=labels, guidance=guidance, size_factor=size_factor, solver=solver, steps=steps,
            seed=seed, shard_size=shard_size, device=device,
        )  # fmt: skip
    note = {"plan": plan.to_dict()}
    if finished(out, note, resume):
        return {"path": str(out), "cells": plan.n_cells, "seconds": 0.0, "cells_per_second": 0.0}
    started = time.monotonic()
    with open_pool(ray, workers, plan.device) as pool:
        parts = open_parts(out, note, resume)
        records, made = make_parts(partial(load_model, bundle, plan.device), plan, parts, pool)
    write_plan(out, plan)
    summary = summarise(out, model, plan, records, made)
    var = pd.DataFrame(index=pd.Index(model.genes, name="gene"))
    features = feature_tables(model)
    with AtlasWriter(out, var, labels=list(model.labels), modalities=features) as writer:
        append_parts(writer, model, plan, parts, records)
        uns = {"generation": provenance(model, note | {"sha256": summary["sha256"]})}
        writer.close(uns=uns, provenance=CARD)
    shutil.rmtree(parts)
    seconds = time.monotonic() - started
    return summary | {"seconds": seconds, "cells_per_second": plan.n_cells / seconds}
