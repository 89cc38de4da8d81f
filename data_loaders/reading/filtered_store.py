"""The cells of a store that pass a filter over obs, as a store."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.obs_filter import ObsFilter
from data_loaders.reading.store import Column, Reader, Rows, Store
from data_loaders.types import Array, Ints


class FilteredStore:
    """Some of the cells of another store; see `reading.store.Store`.

    Parameters
    ----------
    store : Store
    expression : str
        See `data_loaders.obs_filter`.

    Attributes
    ----------
    selection : str
        What tells the cells that pass from any others of the same store.

    Raises
    ------
    BadInput
        When the filter names a column that is not there, or no cell passes it.
    """

    def __init__(self, store: Store, expression: str) -> None:
        self._store = store
        obs_filter = ObsFilter(expression, store.name)
        obs_filter.check_columns(store.obs_columns)
        columns = {name: store.obs(name) for name in dict.fromkeys(obs_filter.columns)}
        obs = pd.DataFrame(columns, index=pd.RangeIndex(store.n_cells))
        passes = obs_filter.passes(obs)
        if not passes.any():
            raise obs_filter.none_passes(obs)
        self._rows: Ints = np.flatnonzero(passes)
        self.n_cells = len(self._rows)
        self.selection = f"{self.n_cells}:{zlib.crc32(self._rows.data)}"
        note = f"{store.name}: {self.n_cells:,} of {store.n_cells:,} cells pass the obs filter {expression!r}"
        self.notes = [*store.notes, note]
        self.name, self.obs_columns, self.is_shuffled = store.name, store.obs_columns, store.is_shuffled
        self.has_size_factor, self.counts_from = store.has_size_factor, store.counts_from
        self.readers: Mapping[str, Reader] = {
            name: ChosenRows(reader, self._rows) for name, reader in store.readers.items()
        }

    def obs(self, column: str) -> Column:
        """Values of an obs column; a Categorical has the categories that occur."""
        values = self._store.obs(column)[self._rows]
        return values.remove_unused_categories() if isinstance(values, pd.Categorical) else values

    def obs_names(self) -> Array:
        """Names of the cells (n_cells,)."""
        return self._store.obs_names()[self._rows]

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""
        return self._store.is_categorical(column)

    def var(self) -> pd.DataFrame:
        """The table of the genes, indexed by name."""
        return self._store.var()

    def features(self, modality: str) -> pd.DataFrame | None:
        """The table of the features of another modality."""
        return self._store.features(modality)

    def uns(self, key: str) -> Any:
        """An entry of uns, or None. There is no card: it is about all cells."""
        return None if key == "atlas_card" else self._store.uns(key)


class ChosenRows:
    """Some rows of another reader, int64 (n,), as its rows."""

    def __init__(self, reader: Reader, rows: Ints) -> None:
        self._reader, self._rows = reader, rows
        self.n_features, self.row_bytes, self.block_rows = reader.n_features, reader.row_bytes, reader.block_rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Ints) -> Rows:
        """Read rows, int64 (B,), in any order."""
        return self._reader.read(self._rows[rows])
