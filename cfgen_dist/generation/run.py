"""Generate any number of cells: plan, shards committed one by one on any workers, one atlas store at the end."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import pandas as pd

from cfgen_dist.bundle import CFGen, for_workers, load_model
from cfgen_dist.generation.options import GenerationOptions, Sampling
from cfgen_dist.generation.plan import make_plan, read_plan, write_plan
from cfgen_dist.generation.store import CARD, Content, Work, write_store
from cfgen_dist.workers.options import Workers, build, takes
from data_loaders.types import PathLike


@takes(GenerationOptions, Sampling, Workers)
def generate(
    bundle: PathLike | CFGen,
    out: PathLike,
    cells: int | None = None,
    *,
    labels: Mapping[str, str] | pd.DataFrame | None = None,
    plan: PathLike | None = None,
    resume: bool = False,
    **options: Unpack[GenerationOptions],
) -> dict[str, Any]:
    """Write a generated atlas.

    Shards are committed to `OUT.parts` as they finish; when all are there they are put together as one AnnData-Zarr
    store and the parts are removed. The counts depend on the bundle and the plan alone: not on the workers, their
    number, their deaths or their order. The plan is kept in `uns["generation"]` and beside the store as
    `OUT.plan.json`.

    Parameters
    ----------
    bundle : path-like or CFGen
    out : path-like
        On a disk that all workers see, or in a bucket (`s3://`, `gs://`, `az://`); so may be `bundle` and `plan`. The
        objects in a bucket are the bytes that the files on a disk would be.
    cells : int
    labels
        As in `CFGen.generate`.
    plan : path-like, optional
        The plan of an earlier generation, in place of `cells`, `labels` and the options of `Sampling`.
    resume : bool
        Finish an interrupted generation of the same plan; a finished one is left as it is.
    **options
        How cells are drawn, `guidance`, `size_factor`, `solver`, `steps`, `seed`, `shard_size`, `device`, as in
        `cfgen_dist.generation.options.Sampling`; who does the work, `ray`, `workers`, as in
        `cfgen_dist.workers.options.Workers`.

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
    bundle = for_workers(bundle)
    model = load_model(bundle)
    if plan is not None:
        resolved = read_plan(plan, model)
    else:
        resolved = make_plan(model, cells, labels=labels, sampling=build(Sampling, options))
    work = Work(partial(load_model, bundle, resolved.device), resolved, {"plan": resolved.to_dict()})
    content = Content(pd.DataFrame(index=pd.Index(model.genes, name="gene")), list(model.labels), CARD)
    summary = write_store(out, model, work, content, build(Workers, options), resume)
    write_plan(out, resolved)
    return summary
