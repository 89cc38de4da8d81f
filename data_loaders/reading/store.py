"""What `Atlas` asks of a store of cells, and of the readers of its matrices: each kind of store answers in a file."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import pandas as pd

from data_loaders.reading.rows import DenseRows, SparseRows
from data_loaders.types import Array, Ints

Rows: TypeAlias = SparseRows | DenseRows
Column: TypeAlias = Any  # of obs: an array, a pandas Categorical or another array of pandas


class Reader(Protocol):
    """Any rows of one matrix of a store.

    Attributes
    ----------
    n_features : int
        Columns.
    row_bytes : float
        Mean bytes of a row in memory.
    block_rows : int or None
        Neighbouring rows that are cheap to read together, where the format fixes them.
    """

    n_features: int
    row_bytes: float
    block_rows: int | None

    def __len__(self) -> int: ...

    def read(self, rows: Ints) -> Rows:
        """Read rows, int64 (B,), in any order."""


class Store(Protocol):
    """Cells with columns and matrices.

    Attributes
    ----------
    name : str
        Path, for messages.
    n_cells : int
    obs_columns : list of str
    is_shuffled : bool
        Whether the cells were put in random order when the store was written.
    has_size_factor : bool
        Whether `obs("size_factor")` is the sum of the counts of each cell.
    counts_from : str
        The matrix that the counts are taken from.
    notes : list of str
        What was chosen or left out, for the user to know; complete when `var` has been read.
    """

    name: str
    n_cells: int
    obs_columns: list[str]
    is_shuffled: bool
    has_size_factor: bool
    counts_from: str
    notes: list[str]

    @property
    def readers(self) -> Mapping[str, Reader]:
        """Modality → reader, the main one first."""

    def obs(self, column: str) -> Column:
        """Values of an obs column."""

    def obs_names(self) -> Array:
        """Names of the cells (n_cells,)."""

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""

    def var(self) -> pd.DataFrame:
        """The table of the features of the main modality, indexed by name."""

    def features(self, modality: str) -> pd.DataFrame | None:
        """The table of the features of another modality, or None where they have no names."""

    def uns(self, key: str) -> Any:
        """An entry of uns, or None."""
