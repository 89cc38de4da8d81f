"""Many sources opened one after the other: few files open at once, genes kept once, and refusals told together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.progress import progress
from data_loaders.sources.counts import as_counts
from data_loaders.sources.source import Block, Matrix, Source
from data_loaders.types import Ints, PathLike

FEW = 16  # sources that stay open until their counts are read
Check = Callable[[Source], object]


class Refusals:
    """The sources that were refused, with their reasons.

    Parameters
    ----------
    skip : bool
        Go on without them.
    """

    def __init__(self, skip: bool) -> None:
        self.skip, self.n_sources = skip, 0
        self.reasons: list[str] = []

    @contextmanager
    def of_source(self) -> Iterator[None]:
        """Keep the reason when what is done here is refused."""
        self.n_sources += 1
        try:
            yield
        except BadInput as error:
            self.reasons.append(str(error))

    def notes(self) -> list[str]:
        """What to note of the sources that were left out."""
        return [f"refused: {reason}" for reason in self.reasons]

    def settle(self) -> None:
        """Go on, or not.

        Raises
        ------
        BadInput
            Some were refused and may not be left out, or all were. One line, or one for each refused source.
        """
        if not self.reasons:
            return
        if self.n_sources == 1:
            raise BadInput(self.reasons[0])
        if self.skip and len(self.reasons) < self.n_sources:
            return
        others = "" if self.skip else "; `skip_refused=True` goes on without such sources"
        if len(self.reasons) == 1:
            raise BadInput(self.reasons[0] + (others if self.n_sources > FEW else ""))
        head = f"{len(self.reasons):,} of {self.n_sources:,} sources are refused{others}"
        raise BadInput("\n  ".join([f"{head}:", *self.reasons]))


def open_all(
    files: ExitStack,
    paths: Sequence[PathLike],
    open_one: Callable[[int], Source],
    refusals: Refusals,
    check: Check | None = None,
) -> list[Source]:
    """Open sources in order.

    Parameters
    ----------
    files : ExitStack
        Closes the sources that stay open.
    paths : list of paths
    open_one : callable
        Opens the source of this number, anew each time.
    refusals : Refusals
        A refused source is left out of the result, and its reason kept here.
    check : callable, optional
        What else may refuse a source; where sources may be skipped it is called, and every count is read and checked.

    Returns
    -------
    list of Source
        Of more than `FEW`, each is closed again and opened when its counts are read. Sources with the same gene names
        share one table of them.
    """
    opened: list[Source] = []
    tables = GeneTables()
    many = len(paths) > FEW
    with progress("open", len(paths), "sources") if many else nullcontext(_no_advance) as advance:
        for number in range(len(paths)):
            with refusals.of_source():
                source = open_one(number)
                try:
                    if refusals.skip and check is not None:
                        check(source)
                        for rows, block in source.matrix.blocks():
                            as_counts(block, rows, source)
                except BadInput:
                    source.close()
                    raise
                if many:
                    source.var, source.features = tables.shared(source.var, source.features)
                    source.close()
                    source.file = None
                    source.matrix = ClosedMatrix(source.matrix, lambda number=number: open_one(number))  # type: ignore[misc]
                else:
                    files.callback(source.close)
                opened.append(source)
            advance(1)
    return opened


def _no_advance(n: int = 1) -> None:
    """Report nothing."""


class ClosedMatrix:
    """A matrix whose file is closed, and open only while its blocks are read.

    Parameters
    ----------
    matrix : Matrix
        As it was when the file was open.
    reopen : callable
        Opens the source again.
    """

    def __init__(self, matrix: Matrix, reopen: Callable[[], Source]) -> None:
        self.name, self.shape, self.n_values = matrix.name, matrix.shape, matrix.n_values
        self._reopen = reopen

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`.

        Raises
        ------
        BadInput
            When the file has changed since it was opened first.
        """
        source = self._reopen()
        try:
            if source.matrix.name != self.name or source.matrix.shape != self.shape:
                raise BadInput(
                    f"{self.name}: {self.shape[0]:,} x {self.shape[1]:,} when it was opened, now {source.matrix.name} "
                    f"of {source.matrix.shape[0]:,} x {source.matrix.shape[1]:,}; expected a file that nobody changes"
                )
            yield from source.matrix.blocks()
        finally:
            source.close()


class GeneTables:
    """Gene tables of many sources, one copy of those with the same names.

    Notes
    -----
    Of such tables only the first one's values are used (`ingestion.genes.join_genes`), and which columns all have.
    """

    def __init__(self) -> None:
        self._first: list[pd.DataFrame] = []
        self._parts: dict[tuple[int, tuple[str, ...]], pd.DataFrame] = {}
        self._features: list[Ints] = []

    def shared(self, var: pd.DataFrame, features: Ints) -> tuple[pd.DataFrame, Ints]:
        """The table and the array to use in the place of `var` and of the columns of the matrix that it describes."""
        alike = next((known for known in self._features if np.array_equal(known, features)), features)
        if alike is features:
            self._features.append(features)
        return self._table(var), alike

    def _table(self, var: pd.DataFrame) -> pd.DataFrame:
        for number, first in enumerate(self._first):
            if len(first) == len(var) and first.index.equals(var.index):
                columns = tuple(name for name in first if name in var)
                return self._parts.setdefault((number, columns), first[list(columns)])
        self._first.append(var)
        self._parts[len(self._first) - 1, tuple(var)] = var
        return var
