"""Cells that are scored by something else than their type, or apart from the rest, in the space of the evaluation.

They go through the stages of the main evaluation, in a folder of parts inside its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from cfgen_dist.evaluation import stages
from cfgen_dist.evaluation.metrics.metric import Metric, Values
from cfgen_dist.evaluation.sources import Cells, Source
from cfgen_dist.evaluation.workspace import Workspace
from cfgen_dist.workers.pool import Pool
from data_loaders.types import Array, Ints


class Running(NamedTuple):
    """An evaluation under way.

    Attributes
    ----------
    work : Workspace
        Its space is fitted.
    origins : list of path-like, Atlas or AnnData
        Of the sources of `work`.
    pool, ray, shard_size
        As everywhere here.
    """

    work: Workspace
    origins: Sequence[Source]
    pool: Pool
    ray: str | None
    shard_size: int


def score_apart(
    running: Running, name: str, rows: Mapping[str, Ints], source_of: Mapping[str, int], names: Array,
    metrics: Sequence[Metric], groups: Mapping[str, Ints] | None = None, more: Sequence[tuple[Cells, Source]] = (),
) -> dict[str, tuple[Values, pd.DataFrame]]:  # fmt: skip
    """Score some cells of the sets of an evaluation against some of its test cells, group by group.

    Parameters
    ----------
    running : Running
    name : str
        Of the folder for the parts.
    rows : dict of str to int array
        `test` and sets to score → rows of their sources.
    source_of : dict of str to int
        The same keys → number of the source.
    names : array of str (K,)
        Of the groups.
    metrics : list of Metric
        Those that are wanted.
    groups : dict of str to int array, optional
        The same keys → the group of each of these cells; by default its type.
    more : list of (Cells, path-like)
        Further sources.

    Returns
    -------
    dict
        Set → what `score.collect` gives of it; values of types are those of groups.
    """
    main = running.work
    folder = main.folder / name
    plan: dict[str, Any] = main.plan | {"sets": dict(source_of), "n_types": len(names), "grouped": True}
    work = Workspace.create(folder, plan, [*main.sources, *(cells for cells, _ in more)], rows, groups)
    setup = stages.worker_setup(work, [*running.origins, *(origin for _, origin in more)], running.ray)
    if not work.facts("space"):
        work.commit("space", main.arrays("space"))
    stages.scan(work, running.pool, setup, running.shard_size)
    return stages.score(work, running.pool, setup, names, metrics)
