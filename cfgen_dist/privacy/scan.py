"""The passes of an audit over its sets of cells, in shards on a pool of workers; what each found is a part.

The space is fitted to generated cells. One fitted to training cells, or to test cells, shows the donors that it was
fitted to in more detail, and so further from all others; fitted to equally many of both, it still shows few held-out
donors in more detail than many donors of training cells. Generated cells treat both alike, unless they betray them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from cfgen_dist.evaluation.inputs import open_inputs
from cfgen_dist.evaluation.sources import Cells, Source
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK, Space
from cfgen_dist.privacy.cohort import Cohort
from cfgen_dist.privacy.nearest import Nearest, Queries
from cfgen_dist.workers.parts import Ledger
from cfgen_dist.workers.pool import Pool
from data_loaders.progress import progress
from data_loaders.statistics.pca import Components
from data_loaders.storage import Place, is_remote
from data_loaders.storage.address import on_disk
from data_loaders.types import Ints

log = logging.getLogger("cfgen_dist")
GENERATED, FLOOR, ALIKE = "generated", "floor", "alike"
T = TypeVar("T")


class Item(NamedTuple):
    """A shard: cells `start` to `stop` of the generated cells, of the floor, or of as many generated cells."""

    cells: str
    start: int
    stop: int


class Scan(Ledger):
    """The parts of an audit, its two sources of cells, and the cells that are asked about.

    Parameters
    ----------
    folder : Place
        That all workers see: on a disk, or in a bucket.
    settings : str
        Digest of everything that the parts depend on.
    real, generated : Cells
    """

    def __init__(self, folder: Place, settings: str, real: Cells, generated: Cells) -> None:
        super().__init__(folder, settings)
        self.real, self.generated = real, generated
        self._fitted: tuple[Components, Queries] | None = None

    @classmethod
    def open(cls, folder: Place, settings: str, real: str, generated: str, label: str | None) -> Scan:
        """In a worker: open the same cells again."""
        inputs = open_inputs(real, [generated], label)
        cells, source = inputs.scored()
        return cls(folder, settings, cells, source)

    @property
    def fitted(self) -> tuple[Components, Queries]:
        """The space and the queries; only where they were committed."""
        if self._fitted is None:
            arrays = self.arrays("queries")
            self._fitted = _unpacked(arrays, "space", Components), _unpacked(arrays, "queries", Queries)
        return self._fitted

    def reader(self, cells: str) -> Callable[[Ints], sparse.csr_matrix]:
        """`read(positions)` of a set."""
        if cells == GENERATED:
            return self.generated.read
        rows, source = self.arrays("cohort")[cells], self.generated if cells == ALIKE else self.real
        return lambda positions: source.read(rows[positions])


def fit(work: Scan, cohort: Cohort) -> None:
    """Fit the space, measure the reference, and commit both."""
    if work.whole_record("cohort") is None:
        work.commit("cohort", {FLOOR: cohort.floor, ALIKE: cohort.alike})
    if work.whole_record("queries") is None:
        counts, space = work.real.read(cohort.rows), Space.fit(work.generated.read(cohort.fitted))
        queries = Queries.of(space.project(counts), counts, cohort.fold, cohort.reference)
        work.commit("queries", _packed("space", space) | _packed("queries", queries))


def scan(
    work: Scan, pool: Pool, setup: Callable[[], Scan], sizes: dict[str, int], shard_size: int
) -> dict[str, Nearest]:
    """What the cells of each set are to the queries; shards that are there already are left out.

    Parameters
    ----------
    work : Scan
        With what `fit` commits.
    pool : Pool
    setup : callable
        How a worker comes by `work`.
    sizes : dict of str to int
        Set → number of its cells.
    shard_size : int
    """
    items = [
        Item(cells, start, min(start + shard_size, n))
        for cells, n in sizes.items()
        for start in range(0, n, shard_size)
    ]
    names, recorded = list(map(part_name, items)), work.recorded()
    there = work.each(lambda name: work.whole_record(name) if name in recorded else None, names)
    missing = [item for item, record in zip(items, there, strict=True) if record is None]
    if len(missing) < len(items):
        log.info("%d of %d parts are there already", len(items) - len(missing), len(items))
    with progress("compare cells", sum(item.stop - item.start for item in missing), "cells") as advance:
        for item, _ in pool(do_item, missing, setup):
            advance(item.stop - item.start)
    found = {cells: Nearest.empty(len(work.fitted[1].points)) for cells in sizes}
    for item in items:
        part = _unpacked(work.arrays(part_name(item)), "nearest", Nearest)
        found[item.cells] = found[item.cells].merge(part)
    return found


def part_name(item: Item) -> str:
    """Name of the part that an item makes."""
    return f"{item.cells}-{item.start}-{item.stop}"


def do_item(work: Scan, item: Item) -> None:
    """Read a shard, compare its cells with the queries, and commit what was found."""
    read = work.reader(item.cells)
    space, queries = work.fitted
    found = Nearest.empty(len(queries.points))
    for start in range(item.start, item.stop, BLOCK):
        counts = read(np.arange(start, min(start + BLOCK, item.stop)))
        found = found.add(queries, space.project(counts), counts)
    work.commit(part_name(item), _packed("nearest", found))


def worker_setup(work: Scan, origins: Sequence[Source], label: str | None, ray: str | None) -> Callable[[], Scan]:
    """How workers come by the audit: threads share it, actors open the cells again."""
    if ray is None:
        return lambda: work
    real, generated = (origin if is_remote(origin) else str(on_disk(origin).absolute()) for origin in map(str, origins))
    return partial(Scan.open, work.folder, work.work, real, generated, label)


def _packed(name: str, values: Any) -> dict[str, Any]:
    """The fields of a dataclass as arrays: sparse counts as three."""
    arrays: dict[str, Any] = {}
    for field, value in vars(values).items():
        if sparse.issparse(value):
            arrays |= {f"{name}.{field}.{part}": getattr(value, part) for part in ("data", "indices", "indptr")}
            arrays[f"{name}.{field}.shape"] = np.array(value.shape)
        else:
            arrays[f"{name}.{field}"] = value
    return arrays


def _unpacked(arrays: dict[str, Any], name: str, kind: type[T]) -> T:
    """The dataclass that was packed."""
    values: dict[str, Any] = {}
    for key, value in arrays.items():
        owner, field, *part = key.split(".")
        if owner == name and not part:
            values[field] = value if value.ndim else value.item()
        elif owner == name and part == ["data"]:
            rest = (arrays[f"{name}.{field}.{other}"] for other in ("indices", "indptr"))
            values[field] = sparse.csr_matrix((value, *rest), tuple(arrays[f"{name}.{field}.shape"]))
    return kind(**values)
