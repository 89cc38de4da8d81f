"""Several stores as one: cells one store after the other, genes matched by name."""

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.reading.buffers import Buffers
from data_loaders.reading.reader import CsrReader, WideCounts
from data_loaders.reading.rows import SparseRows, offsets

JOINS = ("same", "inner", "outer")


class JoinedStore:
    """Stores behind each other. The genes of X are matched by name, other modalities by position.

    Parameters
    ----------
    stores : list
        At least two, with the same modalities, all sparse.
    join : str
        `same`: all have the same genes in the same order. `inner`: the genes that all have, in the order of the first.
        `outer`: the genes that any has, in the order of their first appearance; 0 where a store lacks one.

    Raises
    ------
    BadInput
        When genes differ and `join` does not say what to do, no gene is common, or a store is dense.
    """

    def __init__(self, stores, join="same"):
        if join not in JOINS:
            raise BadInput(f"join is {join!r}; expected one of {', '.join(JOINS)}")
        self._stores = stores
        self.name = f"{stores[0].name} and {len(stores) - 1} more"
        self._ends = np.cumsum([store.n_cells for store in stores])
        self.n_cells = int(self._ends[-1])
        self.obs_columns = [name for name in stores[0].obs_columns if all(name in s.obs_columns for s in stores)]
        # a random order inside each store is none over all, but annbatch deals the cells of all over its stores
        self.is_shuffled = all(store.is_shuffled and store.uns("atlas_card") is None for store in stores)
        modality = next(iter(stores[0].readers))
        for store in stores:
            if not isinstance(store.readers.get(modality), CsrReader):
                raise BadInput(f"{store.name}: no sparse matrix as modality {modality!r}; only such stores are joined")
            if list(store.readers) != list(stores[0].readers):
                raise BadInput(
                    f"{store.name}: modalities {', '.join(store.readers)}, but {', '.join(stores[0].readers)} in "
                    f"{stores[0].name}; stores are joined when they have the same"
                )
        genes = [store.var().index for store in stores]
        self._genes = _join_genes(genes, join, [store.name for store in stores])
        maps = [None if index.equals(self._genes) else self._genes.get_indexer(index) for index in genes]
        readers = [store.readers[modality] for store in stores]
        self.readers = {modality: JoinedReader(readers, maps, len(self._genes))}
        for name in list(stores[0].readers)[1:]:
            readers = [store.readers[name] for store in stores]
            widths = {reader.n_features for reader in readers}
            if len(widths) > 1:
                raise BadInput(f"{self.name}: modality {name!r} has {sorted(widths)} columns; expected the same number")
            self.readers[name] = JoinedReader(readers, [None] * len(readers), widths.pop())

    def obs(self, column):
        """Values of an obs column of all stores."""
        parts = [store.obs(column) for store in self._stores]
        if all(isinstance(part, pd.Categorical) for part in parts):
            return pd.api.types.union_categoricals(parts, ignore_order=True)
        return np.concatenate([np.asarray(part) for part in parts])

    def obs_names(self):
        """Names of all cells (n_cells,)."""
        return np.concatenate([np.asarray(store.obs_names()) for store in self._stores])

    def is_categorical(self, column):
        """Whether all stores hold the column as codes and categories."""
        return all(store.is_categorical(column) for store in self._stores)

    def var(self):
        """The joined genes; no other column of var is the same in all stores."""
        return pd.DataFrame(index=self._genes)

    def features(self, modality):
        """The features of a modality as the first store names them: they are matched by position."""
        return self._stores[0].features(modality)

    def uns(self, key):
        """None: each store has its own."""


class JoinedReader:
    """Rows of several CSR matrices behind each other.

    Parameters
    ----------
    readers : list of CsrReader
    maps : list of (int64 array or None)
        Column of a store → joined column, -1 where it is left out; None where columns are the same.
    n_features : int
    """

    def __init__(self, readers, maps, n_features):
        self._readers, self.n_features = readers, n_features
        self._maps, self._buffers = maps, Buffers()
        self._starts = offsets([len(reader) for reader in readers])
        self._dtypes = [np.result_type(*types) for types in zip(*(reader.dtypes for reader in readers), strict=True)]
        if n_features > 1 << 16:
            self._dtypes[1] = np.dtype(np.uint32)
        self.row_bytes = sum(len(r) * r.row_bytes for r in readers) / max(len(self), 1)

    def __len__(self):
        return int(self._starts[-1])

    def read(self, rows):
        """Read rows, int64 (B,), any order: SparseRows."""
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
            except WideCounts:
                self._dtypes[0] = np.result_type(self._dtypes[0], *(each.widen() for each in self._readers))
                return self.read(rows)
            if self._maps[number] is not None:
                kept[mine[number]] = map_columns(data, indices, targets, lengths[mine[number]], self._maps[number])
        whole = SparseRows(data, indices, indptr, self.n_features)
        return whole if np.array_equal(kept, np.diff(indptr)) else _compacted(whole, kept)


def _compacted(rows, kept):
    """The first `kept` (B,) counts of each row."""
    from data_loaders.reading.kernels import gather_rows

    indptr = offsets(kept)
    data, indices = (np.empty(indptr[-1], part.dtype) for part in (rows.data, rows.indices))
    gather_rows(rows.data, rows.indices, rows.indptr, np.arange(len(kept)), data, indices, indptr)
    return SparseRows(data, indices, indptr, rows.n_features)


def _join_genes(genes, join, names):
    """The joined gene names, a pandas Index."""
    joined = genes[0]
    for index, name in zip(genes[1:], names[1:], strict=True):
        if join == "same" and not index.equals(joined):
            odd = next(iter(index.difference(joined)), None) or next(iter(joined.difference(index)), None)
            what = f"gene {odd!r} is in one only" if odd is not None else "the same genes are in another order"
            raise BadInput(f"{name}: its genes differ from those of {names[0]} ({what}); give join='inner' or 'outer'")
        if join == "inner":
            joined = joined[joined.isin(index)]
        elif join == "outer":
            joined = joined.append(index[~index.isin(joined)])
    if len(joined) == 0:
        raise BadInput(f"{names[0]} and {len(names) - 1} more: no gene is in all of them")
    return joined
