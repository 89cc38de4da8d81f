"""What every source format opens to: a `Source`, whose counts are read later from its matrix."""

import dataclasses
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
from scipy.sparse import csr_matrix

from data_loaders.types import Array, Ints

Block = tuple[Ints, csr_matrix]  # cell numbers, int64 (n,), and their values (n, features)
Group = Any  # a group of an open HDF5 file or Zarr store: both are used alike


@dataclass(frozen=True)
class Options:
    """What a user may say about where the counts of a source are; the names are arguments of `ingest`.

    Attributes
    ----------
    layer : str or None
        The layer of an AnnData, the X layer of a SOMA experiment, or the list of values of Parquet files.
    raw : bool
        Take the counts from `raw` of an AnnData.
    measurement : str or None
        Of a SOMA experiment.
    organism : str or None
        Of a CELLxGENE Census, which has an experiment for each.
    obs_filter : str or None
        Which cells of the source are taken, see `data_loaders.obs_filter`.
    round_counts : bool
        Round fractional values, see `sources.counts`.
    genes_in : {None, "rows", "columns"}
        Which axis of a text table is the genes; told by the names where it is None.
    genes_table : str or None
        The table of the genes that the tokens of Parquet files stand for; searched beside them where it is None.
    """

    layer: str | None = None
    raw: bool = False
    measurement: str | None = None
    obs_filter: str | None = None
    round_counts: bool = False
    genes_in: str | None = None
    genes_table: str | None = None
    organism: str | None = None

    def given(self) -> list[str]:
        """Names of the options that were used."""
        return [option.name for option in dataclasses.fields(self) if getattr(self, option.name) != option.default]


class Matrix(Protocol):
    """A count matrix in a file, read in one pass.

    Attributes
    ----------
    name : str
        File and element, for messages.
    shape : (int, int)
        Cells, features.
    n_values : int
        Upper bound of the stored values.
    """

    name: str
    shape: tuple[int, int]
    n_values: int

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`; a cell may come in several blocks, each with other features."""


@dataclass
class Rounding:
    """Values that were rounded to counts, added up by the threads that read blocks.

    Attributes
    ----------
    allowed : bool
        Whether values that are not whole, beyond the error of floats, are rounded; they are refused otherwise.
    n_values, n_rounded : int
        Values of the blocks that held fractions, and how many of them changed.
    largest : float
        The largest change.
    """

    allowed: bool = False
    n_values: int = 0
    n_rounded: int = 0
    largest: float = 0.0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def add(self, n_values: int, n_rounded: int, largest: float) -> None:
        """Count the values of a block."""
        with self._lock:
            self.n_values += n_values
            self.n_rounded += n_rounded
            self.largest = max(self.largest, largest)


class Closable(Protocol):
    """An open file or store."""

    def close(self) -> object:
        """Close it."""


@dataclass
class Source:
    """One opened source.

    Attributes
    ----------
    path : str
        As given, for messages.
    obs, var : pandas.DataFrame
        Index: cell names and gene names, each unique.
    matrix : Matrix
    features : int (len(var),)
        The matrix columns that the rows of `var` describe.
    counts_from : str
        The element that the counts are taken from, such as "X" or "layers['counts']".
    file : h5py.File, SomaStore or None
        Open as long as the counts are read.
    notes : list of str
        What was changed or guessed, for the user to know.
    others : collection of str
        `layer` where it has layers beside the counts, `raw` where it has a raw beside them.
    choices : str
        The options that name another matrix of it, for messages; empty where it has a single one.
    types : object array (len(var),) or None
        The type of each feature, where the format has a place for it; those of AnnData are columns of var.
    number_names : bool
        Whether names of features that repeat are numbered.
    left_out : dict of str to int
        Type → number of its features that belong to another modality.
    rounding : Rounding
        Whether fractional values may be rounded, and how many were.
    rows : int64 (len(obs),) or None
        The rows in the file of the cells that are taken; None for all.
    cells_left_out : pandas.Index
        Names of the cells that are not taken.
    n_filtered : int
        How many cells the filter left out.
    unmatched : pandas.Index
        Names in the label table that are of no cell.
    """

    path: str
    obs: pd.DataFrame
    var: pd.DataFrame
    matrix: Matrix
    features: Ints
    counts_from: str
    file: Closable | None = None
    notes: list[str] = field(default_factory=list)
    others: Collection[str] = ()
    choices: str = ""
    types: Array | None = None
    number_names: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    rounding: Rounding = field(default_factory=Rounding)
    rows: Ints | None = None
    cells_left_out: pd.Index = field(default_factory=lambda: pd.Index([], dtype=object))
    n_filtered: int = 0
    unmatched: pd.Index = field(default_factory=lambda: pd.Index([], dtype=object))

    def close(self) -> None:
        """Close the file, if it is one."""
        if self.file is not None:
            self.file.close()
