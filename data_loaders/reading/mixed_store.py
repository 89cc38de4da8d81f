"""Stores whose matrix has features of several types (genes, proteins, peaks): their genes alone are shown."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.features.feature_types import Taken, columns_of, left_out, types_of
from data_loaders.reading.rows import DenseRows, SparseRows, compacted
from data_loaders.reading.store import Column, Reader, Rows, Store
from data_loaders.types import Array, Ints

MAIN = "rna"


def genes_alone(store: Store) -> Store:
    """A store as `ingest` takes its main modality: without the features of other types, where var tells types.

    Raises
    ------
    BadInput
        There are several types, and no genes among them.
    """
    taken = None if _is_ours(store) else _taken(store.name, store.var())
    return store if taken is None else MixedStore(store, taken)


def refuse_mixed(store: Store, var: pd.DataFrame) -> None:
    """Refuse to join a store with features of several types."""
    taken = None if _is_ours(store) else _taken(store.name, var)
    if taken is not None:
        others = ", ".join(f"{n:,} of type {name!r}" for name, n in taken.left_out.items())
        raise BadInput(
            f"{store.name}: {others} beside {len(taken.features):,} genes; such stores are opened one by one, or "
            f"`ingest({store.name!r}, OUT)` makes one of its genes alone"
        )


def _is_ours(store: Store) -> bool:
    """Whether this project wrote a store: then its columns were chosen."""
    return bool(getattr(store, "is_ours", False))


def _taken(name: str, var: pd.DataFrame) -> Taken | None:
    """The genes among features of several types; None where there is one type."""
    types = types_of(var)
    if types is None or len(set(types)) == 1:
        return None
    return columns_of(name, var, MAIN)


class MixedStore:
    """Another store, some of the features of its main modality; see `reading.store.Store`."""

    def __init__(self, store: Store, taken: Taken) -> None:
        self._store, self._features = store, taken.features
        self.notes = [*store.notes, f"{store.name}: {left_out(taken.left_out, ['rna'])}"]
        self.name, self.n_cells, self.obs_columns = store.name, store.n_cells, store.obs_columns
        self.is_shuffled = store.is_shuffled
        self.readers: Mapping[str, Reader] = {
            name: SomeColumns(reader, taken.features) if name == MAIN else reader
            for name, reader in store.readers.items()
        }

    def __getattr__(self, name: str) -> Any:
        """What stores of one kind have beside the others."""
        if name.startswith("_"):  # an object that is not made yet, as when it is unpickled
            raise AttributeError(name)
        return getattr(self._store, name)

    def obs(self, column: str) -> Column:
        """Values of an obs column."""
        return self._store.obs(column)

    def obs_names(self) -> Array:
        """Names of the cells (n_cells,)."""
        return self._store.obs_names()

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""
        return self._store.is_categorical(column)

    def var(self) -> pd.DataFrame:
        """The table of the genes, indexed by name."""
        return self._store.var().iloc[self._features]

    def features(self, modality: str) -> pd.DataFrame | None:
        """The table of the features of another modality."""
        return self._store.features(modality)

    def uns(self, key: str) -> Any:
        """An entry of uns, or None."""
        return self._store.uns(key)


class SomeColumns:
    """Some columns, int64 (n_features,), of another reader."""

    def __init__(self, reader: Reader, features: Ints) -> None:
        self._reader, self._kept = reader, features
        self.n_features, self.block_rows = len(features), reader.block_rows
        self.row_bytes: float = reader.row_bytes  # as much is read, and held until it is sorted out
        self._columns: Ints = np.full(reader.n_features, -1, np.int64)
        self._columns[features] = np.arange(len(features))

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, rows: Ints) -> Rows:
        """Read rows, int64 (B,), in any order."""
        whole = self._reader.read(rows)
        if isinstance(whole, DenseRows):
            return DenseRows(np.ascontiguousarray(whole.values[:, self._kept]))
        from data_loaders.reading.kernels import map_columns

        lengths = np.diff(whole.indptr)
        kept = map_columns(whole.data, whole.indices, whole.indptr[:-1], lengths, self._columns)
        return compacted(SparseRows(whole.data, whole.indices, whole.indptr, self.n_features), kept)
