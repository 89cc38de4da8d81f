"""Several stores as one: cells one store after the other, genes matched by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.features.shared_names import MIN_SHARED, lost_note, refuse_few_shared
from data_loaders.reading.buffers import Buffers
from data_loaders.reading.mixed_store import refuse_mixed
from data_loaders.reading.reader import CsrReader, WideCounts
from data_loaders.reading.rows import SparseRows, compacted, offsets
from data_loaders.reading.store import Column, Store
from data_loaders.types import Array, Ints

JOINS = ("same", "inner", "outer")


class JoinedStore:
    """Stores as one, the cells of one after those of another.

    The genes of X are matched by name, other modalities by position.

    Parameters
    ----------
    stores : list
        At least two, with the same modalities, all sparse.
    join : str
        `same`: all have the same genes in the same order. `inner`: the genes that all have, in the order of the first.
        `outer`: the genes that any has, in the order of their first appearance; 0 where a store lacks one.
    min_shared : float
        The share of the smaller of two lists of genes that must be in both.

    Raises
    ------
    BadInput
        When genes differ and `join` does not say what to do, few genes are common, a store names two genes alike, or
        is dense.
    """

    def __init__(self, stores: Sequence[Store], join: str = "same", min_shared: float = MIN_SHARED) -> None:
        if join not in JOINS:
            raise BadInput(f"`join={join!r}`: expected one of {', '.join(JOINS)}")
        self._stores = stores
        self.name = f"{stores[0].name} and {len(stores) - 1} more"
        self._ends = np.cumsum([store.n_cells for store in stores])
        self.n_cells = int(self._ends[-1])
        self.obs_columns = [name for name in stores[0].obs_columns if all(name in s.obs_columns for s in stores)]
        # a random order inside each store is none over all, but annbatch deals the cells of all over its stores
        self.is_shuffled = all(store.is_shuffled and store.uns("atlas_card") is None for store in stores)
        modality = next(iter(stores[0].readers))
        readers = _sparse_readers(stores, modality)
        for store in stores:
            if list(store.readers) != list(stores[0].readers):
                raise BadInput(
                    f"{store.name}: modalities {', '.join(store.readers)}, but {', '.join(stores[0].readers)} in "
                    f"{stores[0].name}; stores are joined when they have the same"
                )
        genes = [_genes_of(store) for store in stores]
        names = [store.name for store in stores]
        if not all(index.equals(genes[0]) for index in genes):
            if any(index.has_duplicates for index in genes):
                raise _repeated(genes, names)
            refuse_few_shared(names, genes, lambda number: stores[number].var(), join=join, min_shared=min_shared)
        self._genes = _join_genes(genes, join, names)
        self.notes = [note for store in stores for note in store.notes]
        self.notes += lost_note(names, genes, self._genes, join) if join != "same" else []
        maps = [None if index.equals(self._genes) else self._genes.get_indexer(index) for index in genes]
        self.readers = {modality: JoinedReader(readers, maps, len(self._genes))}
        # sums over the genes of each store are those of the cells where no gene is left out
        self.has_size_factor = all(store.has_size_factor for store in stores) and all(
            map_ is None or bool((map_ >= 0).all()) for map_ in maps
        )
        self.counts_from = ", ".join(dict.fromkeys(store.counts_from for store in stores))
        for name in list(stores[0].readers)[1:]:
            readers = _sparse_readers(stores, name)
            widths = {reader.n_features for reader in readers}
            if len(widths) > 1:
                raise BadInput(f"{self.name}: modality {name!r} has {sorted(widths)} columns; expected the same number")
            self.readers[name] = JoinedReader(readers, [None] * len(readers), widths.pop())

    def obs(self, column: str) -> Column:
        """Values of an obs column of all stores."""
        parts = [store.obs(column) for store in self._stores]
        if all(isinstance(part, pd.Categorical) for part in parts) and (
            len({part.categories.dtype for part in parts}) == 1
        ):
            return pd.api.types.union_categoricals(parts, ignore_order=True)
        return np.concatenate([np.asarray(part) for part in parts])

    def obs_names(self) -> Array:
        """Names of all cells (n_cells,)."""
        return np.concatenate([np.asarray(store.obs_names()) for store in self._stores])

    def is_categorical(self, column: str) -> bool:
        """Whether all stores hold the column as codes and categories."""
        return all(store.is_categorical(column) for store in self._stores)

    def var(self) -> pd.DataFrame:
        """The joined genes; no other column of var is the same in all stores."""
        return pd.DataFrame(index=self._genes)

    def features(self, modality: str) -> pd.DataFrame | None:
        """The features of a modality as the first store names them: they are matched by position."""
        return self._stores[0].features(modality)

    def uns(self, key: str) -> None:
        """None: each store has its own."""


class JoinedReader:
    """Rows of several CSR matrices, the rows of one after those of another.

    Parameters
    ----------
    readers : list of CsrReader
    maps : list of (int64 array or None)
        Column of a store → joined column, -1 where it is left out; None where columns are the same.
    n_features : int
    """

    block_rows: int | None = None

    def __init__(self, readers: Sequence[CsrReader], maps: Sequence[Ints | None], n_features: int) -> None:
        self._readers, self.n_features = readers, n_features
        self._maps = [_composed(reader.columns, map_) for reader, map_ in zip(readers, maps, strict=True)]
        self._buffers = Buffers()
        self._starts = offsets([len(reader) for reader in readers])
        self._dtypes: list[np.dtype[Any]] = [
            np.result_type(*types) for types in zip(*(reader.dtypes for reader in readers), strict=True)
        ]
        if n_features > 1 << 16:
            self._dtypes[1] = np.dtype(np.uint32)
        self.row_bytes: float = sum(len(reader) * reader.row_bytes for reader in readers) / max(len(self), 1)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def expect(self, rows: Ints) -> None:
        """Have the bytes of rows that will be read be fetched meanwhile, where they are far away."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number, reader in enumerate(self._readers):
            reader.expect(rows[owner == number] - self._starts[number])

    def drop_expected(self) -> None:
        """Let go of what was fetched and not read."""
        for reader in self._readers:
            reader.drop_expected()

    def read(self, rows: Ints) -> SparseRows:
        """Read rows, int64 (B,), any order."""
        from data_loaders.reading.kernels import map_columns

        owner = np.searchsorted(self._starts, rows, side="right") - 1
        lengths = np.empty(len(rows), np.int64)
        mine = [np.flatnonzero(owner == number) for number in range(len(self._readers))]
        for number, reader in enumerate(self._readers):
            local = rows[mine[number]] - self._starts[number]
            lengths[mine[number]] = reader.indptr[local + 1] - reader.indptr[local]
        indptr = offsets(lengths)
        data, indices = (self._buffers.empty(indptr[-1], dtype) for dtype in self._dtypes)
        kept = lengths
        for number, reader in enumerate(self._readers):
            if len(mine[number]) == 0:
                continue
            targets = indptr[mine[number]]
            try:
                reader.fill(rows[mine[number]] - self._starts[number], targets, data, indices)
                wide = False
            except WideCounts:
                wide = True
            if wide:
                self._dtypes[0] = np.result_type(self._dtypes[0], *(one.widen() for one in self._readers))
                return self.read(rows)
            columns = self._maps[number]
            if columns is not None:
                kept[mine[number]] = map_columns(data, indices, targets, lengths[mine[number]], columns)
        whole = SparseRows(data, indices, indptr, self.n_features)
        return whole if np.array_equal(kept, np.diff(indptr)) else compacted(whole, kept)


def _composed(first: Ints | None, second: Ints | None) -> Ints | None:
    """The map of columns that is `first` and then `second`; -1 where a column is left out, None where all are kept."""
    if first is None or second is None:
        return second if first is None else first
    both: Ints = np.append(second, -1)[first]
    return both


def _sparse_readers(stores: Sequence[Store], modality: str) -> list[CsrReader]:
    """The reader of a modality in each store."""
    readers = []
    for store in stores:
        reader = store.readers.get(modality)
        if not isinstance(reader, CsrReader):
            raise BadInput(f"{store.name}: no sparse matrix as modality {modality!r}; only such stores are joined")
        readers.append(reader)
    return readers


def _genes_of(store: Store) -> pd.Index:
    """The gene names of a store."""
    var = store.var()
    refuse_mixed(store, var)
    return var.index


def _repeated(genes: Sequence[pd.Index], names: Sequence[str]) -> BadInput:
    """The error about genes that cannot be matched by name."""
    number = next(number for number, index in enumerate(genes) if index.has_duplicates)
    repeated = genes[number][genes[number].duplicated()][0]
    return BadInput(
        f"{names[number]}: more than one gene is called {str(repeated)!r}; stores whose genes differ are joined by "
        "unique names, `var_names=COLUMN` chooses others"
    )


def _join_genes(genes: Sequence[pd.Index], join: str, names: Sequence[str]) -> pd.Index:
    """The joined gene names, a pandas Index."""
    joined = genes[0]
    for index, name in zip(genes[1:], names[1:], strict=True):
        if join == "same" and not index.equals(joined):
            odd = next(iter(index.difference(joined)), None) or next(iter(joined.difference(index)), None)
            what = f"gene {odd!r} is in one only" if odd is not None else "the same genes are in another order"
            raise BadInput(
                f"{name}: its genes differ from those of {names[0]} ({what}); give `join='inner'` or `join='outer'`"
            )
        if join == "inner":
            joined = joined[joined.isin(index)]
        elif join == "outer":
            joined = joined.append(index[~index.isin(joined)])
    if len(joined) == 0:
        raise BadInput(f"{names[0]} and {len(names) - 1} more: no gene is in all of them")
    return joined
