"""The stages of an evaluation in shards: each a list of items for a pool of workers, then one sum over their parts.

An item is (kind, set, first cell, last cell); what it makes is a part of the workspace, a function of the plan and the
item alone. Items whose part is there already are left out: that is how an evaluation is resumed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.metrics.markers import LevelSums
from cfgen_dist.evaluation.metrics.metric import Measured, Metric, Values
from cfgen_dist.evaluation.score import collect, measure, pieces_of
from cfgen_dist.evaluation.sources import Source
from cfgen_dist.evaluation.spaces import AnySpace
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK, LogCovariance, fit_space
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfCovariance, TfIdfProducts, fit_tf_idf
from cfgen_dist.evaluation.workspace import MATCHED, SCORE, Workspace, packed, unpack, unpacked
from cfgen_dist.workers.pool import Pool
from data_loaders.progress import progress
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments, Sums
from data_loaders.statistics.variable_genes import ClippedSums
from data_loaders.storage import is_remote
from data_loaders.storage.address import on_disk
from data_loaders.types import Array

log = logging.getLogger("cfgen_dist")
SHARD_SIZE = 16_384  # cells
WIDE_SHARDS = 16  # at most, of sums that are matrices (32 MB of 2,000 genes): all are kept until they are added up
WIDE = ("covariance", "tfidf", "products", "levels")
SUMS: dict[str, type] = {
    "moments": GeneMoments, "log": LogSums, "clipped": ClippedSums, "covariance": LogCovariance,
    "tfidf": TfIdfCovariance, "products": TfIdfProducts, "levels": LevelSums,
}  # fmt: skip
MADE_OF: dict[str, tuple[str, ...]] = {  # what empty sums are made of; the number of features otherwise
    "clipped": ("clip",), "covariance": ("genes",), "tfidf": ("idf",), "products": ("idf", "vectors"),
    "levels": ("n_types", "columns", "binary"),
}  # fmt: skip


class Item(NamedTuple):
    """One piece of work.

    Attributes
    ----------
    kind : str
        `scan`; `score.` and the name of a scorer; or one of `SUMS`, maybe with a `.` and what tells its passes apart.
    cells : str
        Name of the set of cells.
    start, stop : int
        First cell of the set, and the one after the last.
    """

    kind: str
    cells: str
    start: int
    stop: int


Setup = Callable[[], Workspace]
T = TypeVar("T", Sums, LevelSums)


def worker_setup(work: Workspace, origins: Sequence[Source], ray: str | None) -> Setup:
    """How workers come by the workspace.

    Threads share what is open here; actors are processes in folders of their own and open the origins again.
    """
    if ray is None:
        return lambda: work
    absolute = [origin if is_remote(origin) else str(on_disk(origin).absolute()) for origin in map(str, origins)]
    return partial(Workspace.open, work.folder, absolute, work.sources[0].label)


def run_stage(work: Workspace, pool: Pool, setup: Setup, items: Sequence[Item], what: str) -> None:
    """Do the items that are not done yet, on the workers of `pool`."""
    missing = list(missing_of(work, items))
    if not missing:
        return
    if len(missing) < len(items):
        log.info("%s: %d of %d parts are there already", what, len(items) - len(missing), len(items))
    with progress(what, sum(item.stop - item.start for item in missing), "cells") as advance:
        for item, _ in pool(do_item, missing, setup):
            advance(item.stop - item.start)


def missing_of(work: Workspace, items: Sequence[Item]) -> Iterator[Item]:
    """The items that are not done yet: what is recorded is looked at, whole."""
    names, recorded = list(map(part_name, items)), work.recorded()
    found = work.each(lambda name: work.facts(name) if name in recorded else None, names)
    yield from (item for item, facts in zip(items, found, strict=True) if facts is None)


def part_name(item: Item) -> str:
    """Name of the part that an item makes."""
    return f"{item.kind}-{item.cells}-{item.start}-{item.stop}"


def do_item(work: Workspace, item: Item) -> None:
    """Do one item in whatever process this runs, and commit its part."""
    kind, name, start, stop = item
    if kind.startswith(SCORE):
        scorer = catalogue.scorers_of(catalogue.METRICS)[kind.removeprefix(SCORE)]
        measured = measure(
            scorer, work.cell_set("test"), work.cell_set(name), protocol=work.plan["protocol"], seed=work.plan["seed"],
            draw=int(name.rpartition("-")[2]), matched=work.matched(),
            whole=not work.plan.get("grouped", False),
        )  # fmt: skip
        work.commit(part_name(item), **measured._asdict())
    elif kind == "scan":
        codes = np.asarray(work.codes(name)[start:stop])
        centred = name in ("test", MATCHED) or work.plan["protocol"] != "paper"
        shard = CellSet.scan(
            work.reader(name, start), codes, work.plan["n_types"], work.space, work.plan["n_genes"], centred=centred
        )
        sums_of_shard = {"pcs": shard.pcs, "sums": shard.sums, "cells": shard.cells} | vars(shard.profile)
        work.commit(part_name(item), sums_of_shard | packed(shard.by_type))
    else:
        read, codes, sums = work.reader(name), work.codes(name), empty_sums(work, kind)
        for first in range(start, stop, BLOCK):
            positions = np.arange(first, min(first + BLOCK, stop))
            more = [np.asarray(codes[positions])] if isinstance(sums, LevelSums) else []
            sums.add(read(positions), *more)
        work.commit(part_name(item), vars(sums))


def empty_sums(work: Workspace, kind: str) -> Any:
    """Sums of a kind without any cells, as the driver committed them; `kind` is one of `SUMS`, `.` and a number."""
    made_of = work.arrays(f"empty-{kind}").values()
    return SUMS[kind.partition(".")[0]](*(each if each.ndim else each.item() for each in made_of))


def add_up(work: Workspace, pool: Pool, setup: Setup, size: int, empty: dict[str, T], kind: str) -> dict[str, T]:
    """Add all cells of some sets, shard by shard, in the order of the shards; the sums of a set are kept as one part.

    Parameters
    ----------
    work, pool, setup, size
        As everywhere here.
    empty : dict of str to sums
        Set → sums without cells, alike for all sets.
    kind : str
        As `empty_sums` takes it.

    Returns
    -------
    dict of str to sums
    """
    sums: Any
    wide = kind.partition(".")[0] in WIDE
    items = {}
    for name in empty:
        n_cells = work.n_cells(name)
        if work.facts(f"sum-{kind}-{name}") is None:
            items[name] = shards(kind, name, n_cells, max(size, -(-n_cells // WIDE_SHARDS)) if wide else size)
    if items:
        made_of = MADE_OF.get(kind.partition(".")[0], ())
        sums = empty[next(iter(items))]
        values = [getattr(sums, each) for each in made_of] or [len(sums.total)]
        work.commit(f"empty-{kind}", {f"{i:02d}": value for i, value in enumerate(values)})
        run_stage(work, pool, setup, [item for name in items for item in items[name]], f"sums: {kind}")
    for name, sums in empty.items():
        if name not in items:
            unpack(sums, work.arrays(f"sum-{kind}-{name}"))
            continue
        for item in items[name]:
            sums.merge(unpack(empty_sums(work, kind), work.arrays(part_name(item))))
        work.commit(f"sum-{kind}-{name}", vars(sums))
        work.remove(map(part_name, items[name]))
    return empty


def shards(kind: str, name: str, n_cells: int, size: int) -> list[Item]:
    """Items over all cells of a set."""
    return [Item(kind, name, start, min(start + size, n_cells)) for start in range(0, n_cells, size)]


def fit(work: Workspace, pool: Pool, setup: Setup, size: int) -> None:
    """Fit the space to the test cells and commit it as `space`."""
    if work.facts("space"):
        return
    passes: list[str] = []

    def pass_over(sums: Sums, number: int = 0) -> Sums:
        kind = next(kind for kind, cls in SUMS.items() if type(sums) is cls) + f".{number}"
        passes.extend([f"empty-{kind}", f"sum-{kind}-test"])
        return add_up(work, pool, setup, size, {"test": sums}, kind)["test"]

    fit_to: Callable[..., AnySpace] = fit_tf_idf if work.plan.get("space") == catalogue.TF_IDF else fit_space
    work.commit("space", vars(fit_to(work.plan["n_genes"], pass_over)))
    work.remove(passes)


def scan(work: Workspace, pool: Pool, setup: Setup, size: int) -> None:
    """Project and sum the cells of all sets; each set becomes one part, its components one file."""
    names = [name for name in work.plan["sets"] if name != "train" and work.facts(f"set-{name}") is None]
    items = {name: shards("scan", name, work.n_cells(name), size) for name in names}
    run_stage(work, pool, setup, [item for name in names for item in items[name]], "read cells")
    for name in names:
        _put_together(work, name, items[name])


def _put_together(work: Workspace, name: str, items: Sequence[Item]) -> None:
    """Commit a set from its shards, one shard in memory at a time."""
    profile = Profile(work.plan["n_genes"])
    sums: Any = 0
    cells: Any = 0
    by_type: Any = 0
    width = work.space.loadings.shape[1]

    def write(file: BinaryIO) -> None:
        nonlocal sums, cells, by_type
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (work.n_cells(name), width)}
        )
        for item in items:
            part = work.arrays(part_name(item))
            file.write(np.ascontiguousarray(part["pcs"], "<f8").tobytes())
            profile.merge(unpack(Profile(work.plan["n_genes"]), part))
            sums, cells, by_type = sums + part["sums"], cells + part["cells"], by_type + unpacked(part)

    work.keep(f"{name}.pcs.npy", write)
    work.commit(f"set-{name}", {"sums": sums, "cells": cells} | vars(profile) | packed(by_type))
    work.remove(map(part_name, items))


def score(
    work: Workspace, pool: Pool, setup: Setup, names: Array, metrics: Sequence[Metric]
) -> dict[str, tuple[Values, pd.DataFrame]]:
    """Metrics and table per type of each set of cells to compare, {name: (metrics, types)}; see `score.collect`.

    Parameters
    ----------
    work, pool, setup
        As everywhere here.
    names : array of str (K,)
        Of the types.
    metrics : list of Metric
        Those that are wanted.
    """
    sets = [name for name in work.plan["sets"] if name not in ("test", "train", MATCHED)]
    scorers = [scorer.name for scorer in pieces_of(metrics)]
    items = {(name, scorer): Item(SCORE + scorer, name, 0, work.n_cells(name)) for name in sets for scorer in scorers}
    run_stage(work, pool, setup, list(items.values()), "score")
    real, matched = work.cell_set("test"), work.matched()
    scores = {}
    for name in sets:
        measured = {scorer: _measured(work, items[name, scorer]) for scorer in scorers}
        scores[name] = collect(measured, real, work.cell_set(name), names, metrics, matched)
    return scores


def _measured(work: Workspace, item: Item) -> Measured:
    record = work.facts(part_name(item))
    if record is None:
        raise RuntimeError(f"{work.record_path(part_name(item)).shown}: gone or changed since it was written")
    return Measured(record["overall"], record["types"])
