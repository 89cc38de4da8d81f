"""What every source format opens to: a `Source`, whose counts are read later from its matrix."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
from scipy.sparse import csr_matrix

from data_loaders.types import Ints

Block = tuple[Ints, csr_matrix]  # cell numbers, int64 (n,), and their values (n, features)
Group = Any  # a group of an open HDF5 file or Zarr store: both are used alike


@dataclass(frozen=True)
class Options:
    """What a user may say about where the counts of a source are; the names are arguments of `ingest`.

    Attributes
    ----------
    layer : str or None
        The layer of an AnnData, or the X layer of a SOMA experiment.
    raw : bool
        Take the counts from `raw` of an AnnData.
    measurement, obs_filter : str or None
        Of a SOMA experiment: which measurement, and a value filter that chooses the cells.
    genes_in : {None, "rows", "columns"}
        Which axis of a text table is the genes; told by the names where it is None.
    """

    layer: str | None = None
    raw: bool = False
    measurement: str | None = None
    obs_filter: str | None = None
    genes_in: str | None = None

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
    has_others : bool
        Whether it has matrices of the same kind beside this one.
    choices : str
        The options that name another matrix of it, for messages; empty where it has a single one.
    """

    path: str
    obs: pd.DataFrame
    var: pd.DataFrame
    matrix: Matrix
    features: Ints
    counts_from: str
    file: Closable | None = None
    notes: list[str] = field(default_factory=list)
    has_others: bool = False
    choices: str = ""

    def close(self) -> None:
        """Close the file, if it is one."""
        if self.file is not None:
            self.file.close()
