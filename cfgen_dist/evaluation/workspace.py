"""`Workspace`: the folder of an evaluation under way, as its driver and all of its workers see it.

It is the ledger of the finished pieces of work, and beside them holds the plan, the rows of every set of cells, and the
sources that they are read from.
"""

import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import anndata as ad
import numpy as np
from pydantic import ConfigDict
from scipy import sparse

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.sources import Cells, open_cells
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfSpace
from cfgen_dist.workers.parts import ONE_HEADER, Ledger, write_file
from data_loaders import Atlas
from data_loaders.errors import BadInput
from data_loaders.records import Record, Whole, check_form, read_json
from data_loaders.seeds import generator
from data_loaders.statistics.pca import Components
from data_loaders.storage import Place, place
from data_loaders.types import Array, Ints, PathLike
from data_loaders.vouchers import unsealed, write_sealed

SCORE = "score."  # before the name of a scorer: kind of the parts that it makes
MATCHED = "matched"  # the set of test cells of the composition of the other sets, where that is not the test's own
Sums = TypeVar("Sums")


class PlanForm(Record):
    """The form of `plan.json`."""

    settings: str
    protocol: str
    seed: Whole = 0
    n_types: Whole
    n_genes: Whole
    sets: dict[str, Whole]
    modality: str | None = None
    space: str | None = None
    binary: bool | None = None
    pooled: bool = False
    grouped: bool = False


class ScoreForm(Record):
    """What the record of a score holds; metrics that cannot be computed are no numbers."""

    model_config = ConfigDict(allow_inf_nan=True)

    overall: dict[str, float | None]
    types: list[dict[str, float | None]]


class Workspace(Ledger):
    """The plan of an evaluation, its sources of cells, and its finished parts.

    Parameters
    ----------
    folder : path-like or Place
        That all workers see: on a disk, or in a bucket.
    plan : dict
        JSON: `settings` (digest), `protocol`, `seed`, `n_types`, `n_genes`, `sets` {name: number of the source}; of
        another modality than rna `modality`, `space` ("log-normalised" or "TF-IDF") and `binary` as well; `pooled` when
        types are left aside; `grouped` when cells go by other groups than types, and only these are scored.
    sources : list of Cells
        The real cells first.
    """

    def __init__(self, folder: PathLike | Place, plan: dict[str, Any], sources: Sequence[Cells]) -> None:
        super().__init__(folder, plan["settings"])
        self.plan, self.sources = plan, sources
        self._space: Components | TfIdfSpace | None = None
        self._maps: dict[str, Array] = {}  # of files in a bucket
        self._one_copy = threading.Lock()

    @classmethod
    def create(
        cls, folder: Place, plan: dict[str, Any], sources: Sequence[Cells], rows: Mapping[str, Ints],
        groups: Mapping[str, Ints] | None = None,
    ) -> Self:  # fmt: skip
        """Write the plan, and rows {name of a set: int array (n,)}, for workers to open.

        `groups` has the same keys: codes of the cells of a set by something else than their type.
        """
        work = cls(folder, plan, sources)
        for name, chosen in rows.items():
            codes = groups[name] if groups is not None else sources[plan["sets"][name]].codes[chosen]
            for what, values in (("rows", chosen), ("codes", codes)):
                work.keep(f"{name}.{what}.npy", partial(_save, values))
        write_sealed(str(folder / "plan.json"), plan)
        return work

    @classmethod
    def open(cls, folder: PathLike | Place, origins: Sequence[PathLike | Atlas | ad.AnnData], label: str) -> Self:
        """In a worker: open the same sources again.

        Parameters
        ----------
        folder : path-like or Place
        origins : list of path-like or AnnData
        label : str
            Empty when the real cells have none.
        """
        path = place(folder) / "plan.json"
        plan = unsealed(read_json(str(path), PlanForm), path.shown)
        how = {name: plan[name] for name in ("modality", "binary") if name in plan}
        pooled = plan.get("pooled", False)
        real, *others = [
            open_cells(origin, label, generated=number > 0, labelled=not pooled, **how)
            for number, origin in enumerate(origins)
        ]
        others = [cells.in_order_of(real.genes) for cells in others]
        if pooled:
            return cls(folder, plan, [cells.without_types() for cells in (real, *others)])
        return cls(folder, plan, [real, *(cells.with_types_of(real) for cells in others)])

    def n_cells(self, name: str) -> int:
        """Cells of a set."""
        return len(self.codes(name))

    def codes(self, name: str) -> Ints:
        """Types of the cells of a set (n,)."""
        return self._mapped(f"{name}.codes.npy")

    def reader(self, name: str, start: int = 0) -> Callable[[Ints], Any]:
        """`read(positions)` of a set: counts of its cells, position 0 being its cell number `start`."""
        rows = self._mapped(f"{name}.rows.npy")
        source = self.sources[self.plan["sets"][name]]
        return lambda positions: source.read(np.asarray(rows[start + positions]))

    def keep(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file `.npy`, to be mapped afterwards."""

        def keep(file: Path) -> None:
            if self.folder.is_remote:
                self._maps[name] = _map(file)

        write_file(self.folder / name, write, keep)

    def _mapped(self, name: str) -> Array:
        """An array that stays on a disk; of one in a bucket each process maps a copy, whose file is gone by then."""
        path = self.folder / name
        if not path.is_remote:
            return _map(Path(str(path)))
        with self._one_copy:
            if name not in self._maps:
                with path.local() as copy:
                    self._maps[name] = _map(copy)
            return self._maps[name]

    def facts(self, part: str) -> dict[str, Any] | None:
        """The record of a part; None when it is missing, not of these settings, or damaged."""
        record = self.whole_record(part)
        if record is None or not part.startswith(SCORE):
            return record if record and "bytes" in record else None
        try:
            check_form(record, ScoreForm, part)
        except BadInput:
            return None
        return record

    @property
    def space(self) -> Components | TfIdfSpace:
        """The fitted space; only where it was committed as `space`."""
        if self._space is None:
            arrays: dict[str, Any] = self.arrays("space")
            self._space = TfIdfSpace(**arrays) if "idf" in arrays else Components(**arrays)
        return self._space

    def cell_set(self, name: str) -> CellSet:
        """A `CellSet` that was committed; its components stay on disk."""
        arrays = self.arrays(f"set-{name}")
        pcs = self._mapped(f"{name}.pcs.npy")
        profile = unpack(Profile(self.plan["n_genes"]), arrays)
        return CellSet(
            np.asarray(self.codes(name)), pcs, arrays["sums"], arrays["cells"], profile, self.reader(name),
            unpacked(arrays), self._store(name),
        )  # fmt: skip

    def _store(self, name: str) -> Ints | None:
        """See `CellSet.store`. Of a set of the floor: as many cells as the first generated store has, drawn at random.

        Where each of them is a training cell, drawn again and again, the floor is as noisy as the store.
        """
        kind, _, draw = name.partition("-")
        source, n_types = self.sources[self.plan["sets"][name]], self.plan["n_types"]
        if kind == "generated":
            return np.bincount(source.codes, minlength=n_types)
        if kind == "floor":
            train = np.bincount(source.codes[source.rows_of("train")], minlength=n_types)
            stores = [number for each, number in self.plan["sets"].items() if each.startswith("generated")]
            n_cells = len(self.sources[stores[0]]) if stores else int(train.sum())
            rng = generator(self.plan["seed"], zlib.crc32(b"composition"), int(draw))
            return rng.multinomial(n_cells, train / train.sum())
        return None

    def matched(self) -> CellSet | None:
        """The test cells for what looks at all cells at once; None when these are all of them."""
        return self.cell_set(MATCHED) if MATCHED in self.plan["sets"] else None


def packed(by_type: sparse.csr_matrix) -> dict[str, Array]:
    """Arrays of counts by type (CSR), to be committed with others; a small type of integers keeps parts small."""
    data = by_type.data.astype(np.min_scalar_type(int(by_type.data.max(initial=0))))
    return {"type_counts": data, "type_genes": by_type.indices, "type_starts": by_type.indptr}


def unpacked(arrays: Mapping[str, Array]) -> sparse.csr_matrix:
    """What `packed` packed, CSR int64 (K, G)."""
    data, genes, starts = (arrays[f"type_{name}"] for name in ("counts", "genes", "starts"))
    return sparse.csr_matrix((data.astype(np.int64), genes, starts), shape=(len(starts) - 1, len(arrays["total"])))


def _save(values: Array, file: BinaryIO) -> None:
    np.save(file, values)


def _map(file: Path) -> Array:
    with ONE_HEADER:
        mapped: Array = np.load(file, mmap_mode="r")
    return mapped


def unpack(sums: Sums, arrays: Mapping[str, Array]) -> Sums:
    """Give empty sums the state that `vars(sums)` had when it was committed."""
    for name in vars(sums):
        value = arrays[name]
        setattr(sums, name, value if value.ndim else value.item())
    return sums
