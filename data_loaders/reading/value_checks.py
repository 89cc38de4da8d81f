"""Counts of stores that others wrote are checked as they are read: nothing normalised leaves a reader as counts.

Our own stores hold unsigned integers and need no check. A reader checks what it was asked for and no more, in the pass
that copies it; only a value that fails is looked at again, here, for its place.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from data_loaders.errors import BadInput
from data_loaders.reading.store import Reader
from data_loaders.sources.counts import fault
from data_loaders.sources.which import EXPECTED
from data_loaders.types import Array, Ints

FIRST_VALUES = 1 << 18  # that are read when a store is opened


@dataclass(frozen=True)
class Naming:
    """What the places of a matrix are called in messages; a reader without it does not check.

    Attributes
    ----------
    cells, features : callable
        Names of rows and columns, which are read only when they are needed; None for columns without names.
    others : str
        The options that name another matrix of the same store; empty where there is none.
    """

    cells: Callable[[], Array]
    features: Callable[[], Array | None]
    others: str = ""

    def place(self, row: int, column: int) -> str:
        """A cell and a gene; column -1 is one that is left out."""
        names = self.features()
        if column < 0:
            gene = "a feature that is left out"
        else:
            gene = f"column {column}" if names is None else f"gene {str(names[column])!r}"
        return f"cell {str(self.cells()[row])!r}, {gene}"


def refuse_faults(name: str, named: Naming, rows: Iterable[tuple[Array, Callable[[int], tuple[int, int]]]]) -> None:
    """Refuse the first value that is no count.

    Parameters
    ----------
    name : str
        The matrix, for messages.
    named : Naming
    rows : iterable of (array, callable)
        Values that lie together, and what row and column the i-th of them has.

    Raises
    ------
    BadInput
        Where there is such a value; nothing happens where there is none.
    """
    for values, place in rows:
        problem = fault(values)
        if problem is None:
            continue
        at = next(i for i in range(len(values)) if fault(values[i : i + 1]) is not None)
        another = f"; name another matrix by {named.others}" if named.others else ""
        first = f"the first in {named.place(*place(at))}: {values[at]:.6g}"
        raise BadInput(f"{name}: {problem}, {first}; {EXPECTED}{another}")


def check_first(reader: Reader) -> None:
    """Read the first rows, so that a store without counts is refused when it is opened.

    Raises
    ------
    BadInput
        When they are no counts, or damaged.
    """
    rows = min(len(reader), max(1, int(FIRST_VALUES * 6 / max(reader.row_bytes, 1.0))))
    reader.read(np.arange(rows))


def inverse(columns: Ints, n: int) -> Ints:
    """Where each of `n` stored columns is in `columns`; -1 for one that is not."""
    places = np.full(n, -1, np.int64)
    places[columns] = np.arange(len(columns))
    return places
