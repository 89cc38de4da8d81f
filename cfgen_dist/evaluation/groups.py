"""Cells that are scored by something else than their type, or apart from the rest, in the space of the evaluation.

They go through the stages of the main evaluation, in a folder of parts inside its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cfgen_dist.evaluation import stages
from cfgen_dist.evaluation.metrics.metric import Metric, Values
from cfgen_dist.evaluation.sources import Source
from cfgen_dist.evaluation.workspace import Workspace
from cfgen_dist.workers.pool import Pool
from data_loaders.types import Array, Ints


def score_apart(
    main: Workspace, name: str, rows: Mapping[str, Ints], groups: Mapping[str, Ints] | None, names: Array,
    metrics: Sequence[Metric], pool: Pool, origins: Sequence[Source], ray: str | None, shard_size: int,
) -> dict[str, tuple[Values, pd.DataFrame]]:  # fmt: skip
    """Score some cells of the sets of an evaluation against some of its test cells, group by group.

    Parameters
    ----------
    main : Workspace
        Of the evaluation, its space fitted.
    name : str
        Of the folder for the parts.
    rows : dict of str to int array
        `test` and some sets of the evaluation → rows of their sources.
    groups : dict of str to int array, optional
        The same keys → the group of each of these cells; by default its type.
    names : array of str (K,)
        Of the groups.
    metrics : list of Metric
        Those that are wanted.
    pool, origins, ray, shard_size
        As everywhere here.

    Returns
    -------
    dict
        Set → what `score.collect` gives of it.
    """
    folder = main.folder / name
    folder.mkdir(exist_ok=True)
    plan: dict[str, Any] = main.plan | {"sets": {key: main.plan["sets"][key] for key in rows}, "n_types": len(names)}
    work = Workspace.create(folder, plan, main.sources, rows, groups)
    setup = stages.worker_setup(work, origins, ray)
    if not work.facts("space"):
        work.commit("space", main.arrays("space"))
    stages.scan(work, pool, setup, shard_size)
    return stages.score(work, pool, setup, names, metrics)
