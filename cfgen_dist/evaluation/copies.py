"""Generated cells that are exact copies of real ones, and of which: those of training, validation or test.

Two cells are equal when they have the same counts in the same genes, whatever the order of the genes and the type of
the numbers. Cells are hashed block by block, 9 bytes a cell stay in memory, and every pair with equal hashes is then
compared count by count. Cells of very few genes may be equal by chance, so the numbers stand beside those of real test
cells that equal a training cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from cfgen_dist.evaluation.sources import Cells
from data_loaders.ingestion.equal_cells import MIN_COUNTS, MIN_GENES
from data_loaders.parallel import ordered_map
from data_loaders.statistics.csr import add_row_hashes
from data_loaders.types import Array, Bools, Ints

BLOCK = 4096  # cells read at a time
LEVEL = 1e-3  # of the test that copies are more than chance
ALL = 0.95  # share of copies from which a store is called the real cells themselves
WORDS = {"train": "training", "val": "validation", "test": "test"}


class Hashes(NamedTuple):
    """What tells cells with different counts apart.

    Attributes
    ----------
    values : uint64 (n,)
    compared : bool (n,)
        Cells with `MIN_GENES` genes and `MIN_COUNTS` counts or more: those with fewer may be equal by chance.
    """

    values: Array
    compared: Bools


@dataclass(frozen=True)
class Copies:
    """How many cells of a set are exact copies of real cells.

    Attributes
    ----------
    name : str
        Of the set.
    n_cells, n_compared : int
        Its cells, and those with enough genes and counts to be told from others.
    n_copies : int
        Cells that equal a real one.
    of : dict of str to int
        Split → cells that equal a real cell of it; a cell that equals several counts in each.
    n_repeated : int
        Cells that equal an earlier cell of the set itself.
    n_test, n_test_copies : int
        What chance gives: the real test cells compared, and those of them that equal a training cell.
    n_train, n_train_repeated : int
        The same of real training cells that equal an earlier one.
    """

    name: str
    n_cells: int
    n_compared: int
    n_copies: int
    of: dict[str, int]
    n_repeated: int
    n_test: int
    n_test_copies: int
    n_train: int
    n_train_repeated: int

    def warnings(self) -> list[str]:
        """What must be said before any score: copies that are more than chance gives."""
        if not self.n_copies or not _beyond(self.n_copies, self.n_compared, self.n_test_copies, self.n_test):
            return self._of_repeats()
        counts = [
            f"{n:,} of {'cells of split ' + repr(split) if split not in WORDS else WORDS[split] + ' cells'}"
            for split, n in self.of.items()
            if n
        ]
        chance = f"of real test cells {_percent(self.n_test_copies, self.n_test)} equal a training cell"
        if self.n_copies >= ALL * self.n_compared:
            return [
                f"{self.name} holds the real cells themselves: {self.n_copies:,} of its {self.n_cells:,} cells are "
                f"exact copies of real ones ({', '.join(counts)}; {chance}); scores say nothing of a generator."
            ]
        alone = len(counts) == 1
        found = f"{self.n_copies:,} of {self.n_cells:,} cells of {self.name} are exact copies of "
        what = counts[0].partition(" of ")[2] if alone else f"real cells, {', '.join(counts)}"
        return [f"{found}{what} ({chance}).", *self._of_repeats()]

    def _of_repeats(self) -> list[str]:
        if not _beyond(self.n_repeated, self.n_compared, self.n_train_repeated, self.n_train):
            return []
        return [
            f"{self.n_repeated:,} of {self.n_cells:,} cells of {self.name} equal an earlier one of them "
            f"(of real training cells {_percent(self.n_train_repeated, self.n_train)} do)."
        ]

    def notes(self) -> list[str]:
        """What else should be known: copies that chance explains, cells that could not be compared."""
        notes = []
        if self.n_copies and not _beyond(self.n_copies, self.n_compared, self.n_test_copies, self.n_test):
            notes.append(
                f"{self.n_copies:,} of {self.n_cells:,} cells of {self.name} equal a real cell, which may be chance: "
                f"of real test cells {_percent(self.n_test_copies, self.n_test)} equal a training cell."
            )
        if self.n_compared < self.n_cells:
            notes.append(
                f"{self.n_cells - self.n_compared:,} cells of {self.name} have fewer than {MIN_GENES} genes or "
                f"{MIN_COUNTS} counts: too few to tell whether they are copies."
            )
        return notes


def find_copies(real: Cells, sources: Sequence[Cells]) -> list[Copies]:
    """Find the cells of each source that equal a real cell.

    Parameters
    ----------
    real : Cells
        With a column `split`.
    sources : list of Cells
        With the genes of the real cells, in their order.

    Returns
    -------
    list of Copies

    Raises
    ------
    BadInput
        Values that are not counts.
    """
    hashes = hash_cells(real)
    splits = [] if real.split is None else [name for name in real.split.categories if (real.split == name).any()]
    order = [name for name in WORDS if name in splits] + sorted(set(splits) - set(WORDS))
    rows_of = {name: np.flatnonzero((real.split == name) & hashes.compared) for name in order}
    train, test = (rows_of.get(name, np.empty(0, np.int64)) for name in ("train", "test"))
    of_test = _equal(real, hashes, test, real, hashes, train)
    repeated = _repeats(hashes.values[train])
    found = []
    for cells in sources:
        own = hash_cells(cells)
        mine = np.flatnonzero(own.compared)
        equal = {name: _equal(cells, own, mine, real, hashes, rows) for name, rows in rows_of.items()}
        copies = np.zeros(len(mine), bool)
        for of_split in equal.values():
            copies |= of_split
        found.append(
            Copies(
                name=cells.name,
                n_cells=len(cells),
                n_compared=len(mine),
                n_copies=int(copies.sum()),
                of={name: int(of_split.sum()) for name, of_split in equal.items()},
                n_repeated=_repeats(own.values[mine]),
                n_test=len(test),
                n_test_copies=int(of_test.sum()),
                n_train=len(train),
                n_train_repeated=repeated,
            )
        )
    return found


def hash_cells(cells: Cells, rows: Ints | None = None) -> Hashes:
    """Hash the counts of cells, in blocks, on one thread a core.

    Parameters
    ----------
    cells : Cells
    rows : int array, optional
        Only these, in this order.

    Returns
    -------
    Hashes
    """
    rows = np.arange(len(cells)) if rows is None else rows
    values, compared = np.zeros(len(rows), np.uint64), np.zeros(len(rows), bool)

    def hash_block(start: int) -> tuple[int, Array, Bools]:
        counts = cells.read(rows[start : start + BLOCK])
        n = counts.shape[0]
        found, n_genes = np.zeros(n, np.uint64), np.zeros(n, np.int32)
        lengths, columns, data = (
            each.astype(np.int64, copy=False) for each in (np.diff(counts.indptr), counts.indices, counts.data)
        )
        add_row_hashes(np.arange(n), lengths, columns, data, found, n_genes)
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        return start, found, (n_genes >= MIN_GENES) & (totals >= MIN_COUNTS)

    for start, found, enough in ordered_map(hash_block, range(0, len(rows), BLOCK)):
        values[start : start + BLOCK], compared[start : start + BLOCK] = found, enough
    return Hashes(values, compared)


def _equal(mine: Cells, hashes: Hashes, rows: Ints, real: Cells, real_hashes: Hashes, real_rows: Ints) -> Bools:
    """Which of the cells `rows` equal one of the real cells `real_rows`, bool (len(rows),)."""
    if not len(rows) or not len(real_rows):
        return np.zeros(len(rows), bool)
    order = real_rows[np.argsort(real_hashes.values[real_rows], kind="stable")]
    ordered = real_hashes.values[order]
    places = np.minimum(np.searchsorted(ordered, hashes.values[rows]), len(order) - 1)
    found = ordered[places] == hashes.values[rows]
    candidates = np.flatnonzero(found)
    for here in _blocks(candidates):
        found[here] = _same_rows(mine.read(rows[here]), real.read(order[places[here]]))
    return found


def _same_rows(one: Array, other: Array) -> Bools:
    """Which rows of two CSR matrices are equal."""
    differences = (one.astype(np.int64) != other.astype(np.int64)).tocsr()
    return np.diff(differences.indptr) == 0


def _blocks(positions: Ints) -> Iterator[Ints]:
    for start in range(0, len(positions), BLOCK):
        yield positions[start : start + BLOCK]


def _repeats(values: Array) -> int:
    """How many hashes have been there before."""
    return len(values) - len(np.unique(values))


def _beyond(n: int, of: int, n_chance: int, of_chance: int) -> bool:
    """Whether n of so many is more than what chance gave, by Fisher's exact test; any where chance gave none."""
    if not n or not n_chance:
        return n > 0
    table = [[n, of - n], [n_chance, of_chance - n_chance]]
    return bool(fisher_exact(table, alternative="greater").pvalue < LEVEL)


def _percent(n: int, of: int) -> str:
    return f"{n / of:.2%}" if n else "none"


def sentences_on(copies: Iterable[Copies]) -> tuple[list[str], list[str]]:
    """Warnings and notes on several sets."""
    listed = list(copies)
    return [line for one in listed for line in one.warnings()], [line for one in listed for line in one.notes()]
