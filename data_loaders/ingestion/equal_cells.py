"""Cells that have exactly the counts of another one: the same cell in two files, or twice in one."""

from typing import NamedTuple

import numpy as np

from data_loaders.ingestion.gather import RowIdentity
from data_loaders.types import Bools, Ints

MIN_GENES, MIN_COUNTS = 3, 10  # of a cell: those with fewer may be equal by chance


class EqualCells(NamedTuple):
    """Cells that have the counts of an earlier one.

    Attributes
    ----------
    rows : bool (n_cells,)
    n_elsewhere : int
        How many of them are copies of a cell of an earlier source.
    """

    rows: Bools
    n_elsewhere: int

    @property
    def n_cells(self) -> int:
        """How many there are."""
        return int(self.rows.sum())

    def notes(self, left_out: bool) -> list[str]:
        """What to say of them."""
        if not self.n_cells:
            return []
        where = f", {self.n_elsewhere:,} of them one of an earlier source" if self.n_elsewhere else ""
        end = "left out" if left_out else "`drop_copies=True` leaves them out"
        return [
            f"{self.n_cells:,} of {len(self.rows):,} cells have exactly the counts of an earlier cell{where}; {end}"
        ]


def equal_cells(identity: RowIdentity, candidates: Bools, ends: Ints) -> EqualCells:
    """Find the cells that have exactly the counts of an earlier one, in all genes.

    Parameters
    ----------
    identity : RowIdentity
    candidates : bool (n_cells,)
        Cells to compare; of those, the ones with `MIN_GENES` genes and `MIN_COUNTS` counts or more are.
    ends : int64 (n_sources,)
        Where the cells of each source end.

    Returns
    -------
    EqualCells
    """
    rows = np.flatnonzero(candidates & (identity.n_genes >= MIN_GENES) & (identity.totals >= MIN_COUNTS))
    order = np.argsort(identity.hashes[rows], kind="stable")  # stable: of equal cells the first comes first
    rows = rows[order]
    hashes = identity.hashes[rows]
    is_copy = np.zeros(len(rows), bool)
    is_copy[1:] = hashes[1:] == hashes[:-1]
    copies = np.zeros(len(candidates), bool)
    copies[rows[is_copy]] = True
    firsts = rows[np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(rows))))][is_copy] if len(rows) else rows
    source_of = np.searchsorted(ends, rows[is_copy], side="right")
    return EqualCells(copies, int((source_of != np.searchsorted(ends, firsts, side="right")).sum()))
