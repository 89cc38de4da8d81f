"""`Atlas`: a store of cells as users see it. Small columns in memory, counts read by rows."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.card import parse_card
from data_loaders.errors import BadInput, nearest
from data_loaders.features.gene_names import one_for_each
from data_loaders.features.shared_names import MIN_SHARED, check_min_shared
from data_loaders.labels import label_codes, parse_missing
from data_loaders.reading.rows import SparseRows
from data_loaders.reading.store import Column, Reader, Rows, Store
from data_loaders.sources.source import Options
from data_loaders.types import Array, Floats, Ints, PathLike

log = logging.getLogger("data_loaders")
NOT_LABELS = ("split", "shard", "is_generated")
_reopening = threading.RLock()
_of_parents: list[Store] = []  # stores that a forked child was born with; closing one could wait for a lost thread


def _renew_lock() -> None:
    """Let a forked child have a lock of its own: a thread of the parent may have held this one."""
    global _reopening
    _reopening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def open_atlas(
    path: PathLike | Sequence[PathLike],
    *,
    layer: str | None = None,
    raw: bool = False,
    obs_filter: str | None = None,
    join: str = "same",
    storage: dict[str, Any] | None = None,
    var_names: str | Sequence[str] | None = None,
    min_shared: float = MIN_SHARED,
    missing_values: str | Sequence[str] = (),
    **soma: Any,
) -> "Atlas":
    """Open a store of cells for reading.

    Parameters
    ----------
    path : path-like, URL, or list of them
        An atlas store, any other AnnData-Zarr store (v2 or v3), a folder of such stores, an h5ad file, an h5mu file or
        one modality of it (`FILE.h5mu:NAME`), a 10x HDF5 file, or a TileDB-SOMA experiment. Several become one atlas,
        the cells of one store after those of another.
    layer, raw : str, bool
        Where the counts are in a store that others wrote. By default they are searched as `ingest` does: the first of
        X, layers["counts"] and raw that holds whole numbers, or else the only other layer that does; of a SOMA
        experiment the X layers `data` and `counts`, those of the measurement `raw`, or else the only other layer. With
        `raw` the genes are those of raw. Whatever is chosen, values that are no counts are refused.
    obs_filter : str, optional
        An expression over obs, such as `tissue == "lung"`, see `data_loaders.obs_filter`; only these cells are in the
        atlas. It has no card then.
    join : str
        The genes of several stores: `same` (all must have the same ones), `inner` (those that all have), `outer` (those
        that any has).
    var_names : str or sequence of str, optional
        The var column with the gene names (`index`: the index of var), one for all paths or one for each. When left
        out, by the rule of `data_loaders.features.gene_names`.
    min_shared : float
        Stores are joined when at least this share of the genes of the smaller list is in both.
    storage : dict, optional
        Options of the object store when `path` is a URL, see `data_loaders.reading.remote.open_remote`.
    missing_values : sequence of str, or str with commas
        Texts that are no label, such as "nan" and "unknown", whatever their case. Missing values and empty text are
        none anyway: their code is -1.
    **soma
        Of a SOMA experiment: `organism` (of a CELLxGENE Census), `measurement`, `obs_columns`, `config`, see
        `data_loaders.reading.soma_store.SomaStore`.

    Returns
    -------
    Atlas

    Raises
    ------
    BadInput
        When there is no such store, it has no counts or cannot be read by rows, it is damaged, incomplete or still
        being written, a column does not name its genes, the filter leaves no cell, or stores share few genes.
    """
    from data_loaders.reading.open import How, open_store

    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not paths:
        raise BadInput("no path given; expected at least one store")
    columns = one_for_each(var_names, len(paths))
    check_min_shared(min_shared)
    how = How(Options(layer=layer, raw=raw), storage, obs_filter, soma)
    whole = [str(one) if "://" in str(one) else os.path.abspath(one) for one in paths]
    reopen = partial(open_store, whole, how, columns, join, min_shared)
    store = open_store(paths, how, columns, join, min_shared)
    for note in store.notes:
        log.warning("%s", note)
    return Atlas(store, parse_missing(missing_values), reopen)


class Atlas:
    """Cells with counts, label columns and a split. Made by `open_atlas`.

    An atlas can be pickled, and used in a forked process: the store is then opened again there when it is first read,
    and refused if it has other cells by then.

    Attributes
    ----------
    name : str
        Path of the store.
    n_cells, n_genes : int
        Cells; columns of the first modality.
    obs_columns : list of str
    modalities : tuple of str
        `rna` first; (`latent`,) for a store of latents.
    counts_from : str
        The matrix that the counts are taken from, such as "X" or "raw.X".
    """

    def __init__(
        self, store: Store, missing_values: Sequence[str] = (), reopen: Callable[[], Store] | None = None
    ) -> None:
        self._held: Store | None = store
        self._reopen, self._process, self._missing_values = reopen, os.getpid(), tuple(missing_values)
        self._expected: str | None = None  # fingerprint of the store that was pickled
        self.name = store.name
        self.n_cells = store.n_cells
        self.modalities = tuple(store.readers)
        self.obs_columns = list(store.obs_columns)
        self.n_genes = store.readers[self.modalities[0]].n_features
        self.counts_from = store.counts_from
        self._columns: dict[str, tuple[Ints, list[str]]] = {}

    @property
    def _store(self) -> Store:
        """The open store; opened again in another process than the one that opened it."""
        if self._reopen is not None and (self._held is None or self._process != os.getpid()):
            with _reopening:
                if self._held is None or self._process != os.getpid():
                    self._open_again(self._reopen)
        assert self._held is not None
        return self._held

    def _open_again(self, reopen: Callable[[], Store]) -> None:
        if self._held is not None:
            _of_parents.append(self._held)
        expected = self._expected
        self._held, self._process, self._expected = reopen(), os.getpid(), None
        if expected is not None and expected != self._identity():
            self._held, self._expected = None, expected
            raise BadInput(f"{self.name}: has other cells than when it was opened; open it again")

    def _identity(self) -> str:
        """Text that differs between stores of different cells, read from the store that is open."""
        assert self._held is not None
        return f"{self._held.n_cells} cells; {_fingerprint(self._held, self._held.var().index)}"

    def __getstate__(self) -> dict[str, Any]:
        if self._reopen is None:
            raise BadInput(f"{self.name}: made of a store that is open; `open_atlas()` makes one that can be pickled")
        kept = ("name", "n_cells", "modalities", "obs_columns", "n_genes", "counts_from", "_reopen", "_missing_values")
        expected = self._expected if self._held is None else self._identity()
        return {name: self.__dict__[name] for name in kept} | {
            "_held": None, "_process": 0, "_columns": {}, "_expected": expected
        }  # fmt: skip

    def __len__(self) -> int:
        return self.n_cells

    def __repr__(self) -> str:
        return f"Atlas({self.name!r}: {self.n_cells:,} cells x {self.n_genes:,} genes, labels {', '.join(self.labels)})"

    @cached_property
    def var(self) -> pd.DataFrame:
        """The var table, indexed by gene."""
        return self._store.var()

    @property
    def genes(self) -> pd.Index:
        """Gene names, pandas Index (n_genes,)."""
        return self.var.index

    def features(self, modality: str) -> pd.DataFrame:
        """The table of the features of a modality, indexed by name: `var` for the first one.

        Raises
        ------
        BadInput
            When the modality does not exist, or the store does not name its features.
        """
        self.reader(modality)
        table = self.var if modality == self.modalities[0] else self._store.features(modality)
        if table is None:
            place = f"uns['features'][{modality!r}]"
            raise BadInput(f"{self.name}: no table of the features of modality {modality!r}; expected {place}")
        return table

    @cached_property
    def card(self) -> dict[str, Any] | None:
        """The atlas card, a dict (see `data_loaders.card`); None in a store that this project did not write."""
        return _card(self._store)

    @cached_property
    def labels(self) -> list[str]:
        """Names of the label columns: those of the card, else every categorical obs column but the split."""
        if self.card is not None:
            return list(self.card["labels"])
        names = [name for name in self.obs_columns if name not in NOT_LABELS]
        return [name for name in names if self._store.is_categorical(name)]

    def categories(self, label: str) -> list[str]:
        """Categories of an obs column, list of str, in the order of their codes."""
        return self._categorical(label)[1]

    def codes(self, label: str) -> Ints:
        """Category code of every cell, int32 (n_cells,); -1 where the value is missing."""
        return self.small_codes(label).astype(np.int32)

    def small_codes(self, label: str) -> Ints:
        """As `codes`, in the smallest integer type; not copied."""
        return self._categorical(label)[0]

    def obs(self, column: str) -> Column:
        """Any obs column as it is stored: array or pandas Categorical, (n_cells,)."""
        self._check_column(column)
        return self._store.obs(column)

    def obs_names(self) -> Array:
        """Names of the cells (n_cells,)."""
        return self._store.obs_names()

    @cached_property
    def has_size_factor(self) -> bool:
        """Whether the store knows the sum of the counts of each cell: one that this project wrote does.

        A column `size_factor` of others may be anything: text, or factors that scran made, near to 1. It is not used;
        their counts are summed when they are read.
        """
        return self._store.has_size_factor

    @cached_property
    def size_factor(self) -> Floats:
        """Sum of the counts of each cell, float32 (n_cells,)."""
        if self.has_size_factor:
            return np.asarray(self._store.obs("size_factor"), np.float32)
        step = 4096
        parts = [
            self.read(np.arange(start, min(start + step, self.n_cells))).row_sums()
            for start in range(0, self.n_cells, step)
        ]
        return np.concatenate(parts or [np.empty(0)]).astype(np.float32)

    def uns(self, key: str) -> Any:
        """An entry of uns as it is stored, or None."""
        return self._store.uns(key)

    def rows(self, split: str | None = None, **labels: Any) -> Ints:
        """Rows of a split and of chosen categories.

        Parameters
        ----------
        split : str, optional
            `train`, `val` or `test`; all cells when left out.
        **labels
            Obs column = category, or a list of categories. All conditions must hold.

        Returns
        -------
        int64 array, sorted

        Raises
        ------
        BadInput
            When a column or category does not exist.
        """
        keep = np.ones(self.n_cells, bool)
        if split is not None:
            labels = {"split": split, **labels}
        for name, wanted in labels.items():
            codes, categories = self._categorical(name)
            wanted = [wanted] if isinstance(wanted, str) or not np.iterable(wanted) else wanted
            numbers = [self._category(name, str(category), categories) for category in wanted]
            keep &= np.isin(codes, numbers)
        return np.flatnonzero(keep)

    def read(self, rows: Ints, modality: str | None = None) -> Rows:
        """Read cells.

        Parameters
        ----------
        rows : integer array (B,)
            Row numbers, in any order, repeated where wanted.
        modality : str, optional
            One of `modalities`; the first when left out.

        Returns
        -------
        SparseRows, or DenseRows from a dense matrix
            In the order of `rows`.

        Raises
        ------
        BadInput
            When a row or modality does not exist, or a chunk of the store is missing or damaged.
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise BadInput(f"rows have shape {rows.shape} and type {rows.dtype}; expected a list of row numbers")
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n_cells):
            raise BadInput(f"rows run from {rows.min()} to {rows.max()}; {self.name} has rows 0 to {self.n_cells - 1}")
        return self.reader(modality).read(rows.astype(np.int64, copy=False))

    def read_sparse(self, rows: Ints, modality: str | None = None) -> SparseRows:
        """As `read`, of a sparse matrix; `BadInput` for a dense one."""
        counts = self.read(rows, modality)
        if not isinstance(counts, SparseRows):
            raise BadInput(f"{self.name}: its {modality or self.modalities[0]} is dense; expected sparse counts")
        return counts

    def reader(self, modality: str | None = None) -> Reader:
        """The reader behind `read`: `read(rows)`, `row_bytes`, `n_features`."""
        modality = modality or self.modalities[0]
        if modality not in self._store.readers:
            raise BadInput(f"{self.name}: no modality {modality!r}; {nearest(modality, self.modalities)}")
        return self._store.readers[modality]

    @cached_property
    def fingerprint(self) -> str:
        """Text that differs between stores of different cells or orders; part of a stream's state."""
        return _fingerprint(self._store, self.genes)

    @property
    def contents(self) -> str | None:
        """SHA-256 that tells the data of the store from any other; None where its writer noted no checksums."""
        contents: str | None = getattr(self._store, "contents", None)
        return contents

    @property
    def identity(self) -> str | None:
        """The id of the store, drawn once when it was begun, or that of its plan; None for stores without one."""
        identity: str | None = getattr(self._store, "identity", None)
        return identity

    def check_files(self) -> None:
        """Look at size and end of every file of a local store that has a manifest.

        Raises
        ------
        BadInput
            When one is missing, or is not the one that was written.
        """
        check = getattr(self._store, "check_cheaply", None)
        if check is not None:
            check()

    @property
    def is_shuffled(self) -> bool:
        """Whether the cells were put in random order when the store was written."""
        return self._store.is_shuffled

    def _categorical(self, name: str) -> tuple[Ints, list[str]]:
        """(codes, categories) of an obs column, kept."""
        if name not in self._columns:
            self._check_column(name)
            self._columns[name] = label_codes(self._store.obs(name), self._missing_values)
        return self._columns[name]

    def _check_column(self, name: str) -> None:
        if name not in self.obs_columns:
            raise BadInput(f"{self.name}: no obs column {name!r}; {nearest(name, self.obs_columns)}")

    def _category(self, name: str, category: str, categories: list[str]) -> int:
        if category not in categories:
            raise BadInput(
                f"{self.name}: obs column {name!r} has no category {category!r}; {nearest(category, categories)}"
            )
        return categories.index(category)


def _card(store: Store) -> dict[str, Any] | None:
    text = store.uns("atlas_card")
    return None if text is None else parse_card(text, store.name)


def _fingerprint(store: Store, genes: pd.Index) -> str:
    """See `Atlas.fingerprint`."""
    card = _card(store)
    if card is not None and "fingerprint" in card:
        return str(card["fingerprint"])
    shapes = [f"{name}:{len(reader)}x{reader.n_features}" for name, reader in store.readers.items()]
    selection = getattr(store, "selection", None)
    parts = [*shapes, *map(str, genes[:2]), *map(str, genes[-2:]), *([selection] if selection else [])]
    return ";".join(parts)
