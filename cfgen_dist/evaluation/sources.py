"""Where cells to evaluate come from: an atlas store, an h5ad file or AnnData in memory, seen alike."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.evaluation.origin import generation_of, parse_generation
from data_loaders.errors import BadInput, nearest
from data_loaders.labels import label_codes
from data_loaders.reading.atlas import NOT_LABELS, Atlas, open_atlas
from data_loaders.reading.rows import DenseRows, SparseRows
from data_loaders.storage import is_remote, place
from data_loaders.types import Array, Bools, Ints, PathLike

Source: TypeAlias = PathLike | Atlas | ad.AnnData
DEFAULT_LABEL = "cell_type"
MAIN = "rna"  # the modality in X
ORIGIN = "is_generated"  # the obs column that tells generated from real cells in a store that holds both
TRUE = ("true", "1", "1.0", "yes")
ALL_CELLS = "all cells"  # the one type of cells that are compared without their types


@dataclass(eq=False)
class Cells:
    """Cells with one label column; counts are read by rows. Made by `open_cells`.

    Attributes
    ----------
    name : str
        For messages.
    genes : pandas.Index (G,)
    label : str
    types : array of str (K,)
        Names of the types, sorted.
    codes : int32 array (n,)
        Type of each cell, a position in `types`.
    split : array of str (n,), or None without such a column
    provenance : dict
        What the store says of itself: its card, its generation.
    identity : str
        Differs between cells that differ, as far as can be told without reading them.
    largest : dict of str to int
        Further modality that the store describes → its largest count.
    labels, columns : list of str
        Label columns of the store; all of its obs columns.
    n_unlabelled : int
        Cells of the store without a label: they are left out, rows count the others.
    n_others : int
        Cells of a mixed store that are left out as well: real ones where generated ones were asked for, or the reverse.
    pooled : bool
        Whether types are left aside: all cells are of one.
    store_rows : int array (n,), or None for all
        Rows of the store that the cells are.
    """

    name: str
    genes: pd.Index
    label: str
    types: Array
    codes: Ints
    split: pd.Categorical | None
    provenance: dict[str, Any]
    identity: str
    largest: dict[str, int] = field(repr=False)
    labels: list[str]
    columns: list[str]
    _read: Callable[[Ints], sparse.csr_matrix] = field(repr=False)
    _labels: Callable[[str], tuple[Ints, list[str]]] = field(repr=False)
    _totals: Callable[[str], Array] = field(repr=False)
    _columns: Ints | None = None
    n_unlabelled: int = 0
    n_others: int = 0
    pooled: bool = False
    store_rows: Ints | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def read(self, rows: Ints) -> sparse.csr_matrix:
        """Counts (CSR) of `rows`, in that order; BadInput when the values are not counts."""
        counts = check_counts(self._read(rows), self.name)
        if self._columns is not None:
            counts = counts[:, self._columns]
            counts.sort_indices()  # sums are to be those of cells that come in this order
        return counts

    def label_codes(self, column: str) -> tuple[Ints, list[str]]:
        """Another label of the cells: codes (n,), -1 for none, and categories."""
        codes, names = self._labels(column)
        return np.asarray(codes), names

    def measured(self, modality: str) -> Bools:
        """Whether each cell has counts in a further modality, bool (n,)."""
        return np.asarray(self._totals(modality)).ravel() > 0

    def rows_of(self, split: str) -> Ints:
        """Rows of `train` or `test` cells, ascending; BadInput when there are none."""
        if self.split is None:
            raise BadInput(f"{self.name}: no obs column 'split'; expected one with train and test cells")
        rows = np.flatnonzero(self.split == split)
        if not len(rows):
            counts = self.split.value_counts()
            found = ", ".join(f"{n} {name}" for name, n in counts[counts > 0].sort_values(ascending=False).items())
            raise BadInput(f"{self.name}: no {split} cells in obs column 'split' (found {found or 'no cells'})")
        return rows

    def without_types(self) -> Cells:
        """The same cells, all of one type."""
        types = np.array([ALL_CELLS])
        return replace(self, types=types, codes=np.zeros(len(self), np.int32), pooled=True)

    def in_order_of(self, genes: pd.Index) -> Cells:
        """The same cells with their genes in the order of `genes` (G,); BadInput when they are not the same genes."""
        if self.genes.equals(genes):
            return self
        missing, unknown = genes.difference(self.genes, sort=False), self.genes.difference(genes, sort=False)
        if len(missing) or len(unknown):
            parts = [
                f"{len(some)} {what} ({', '.join(map(str, some[:3]))}{', ...' if len(some) > 3 else ''})"
                for some, what in ((missing, "missing"), (unknown, "unknown"))
                if len(some)
            ]
            raise BadInput(
                f"{self.name}: its {len(self.genes)} {self.genes.name} are not the real cells' {len(genes)}: "
                f"{', '.join(parts)}"
            )
        return replace(self, genes=genes, _columns=self.genes.get_indexer(genes))

    def with_types_of(self, real: Cells) -> Cells:
        """The same cells, their codes those of the real cells' types; BadInput when the cells have others."""
        observed = self.types[np.unique(self.codes)]
        unknown = np.setdiff1d(observed, real.types[np.unique(real.codes)]).tolist()
        if unknown:
            raise BadInput(
                f"{self.name}: obs column {self.label!r} has {unknown[0]!r}, which no real cell has; "
                f"{nearest(unknown[0], real.types)}"
            )
        places = np.searchsorted(real.types, self.types).astype(np.int32)  # of types that no cell has: any
        return replace(self, types=real.types, codes=places[self.codes])


def open_cells(
    source: Source, label: str | None = None, name: str | None = None, *, modality: str | None = None,
    binary: bool = False, generated: bool | None = None, labelled: bool = True,
) -> Cells:  # fmt: skip
    """Open cells for evaluation.

    Parameters
    ----------
    source : path-like, Atlas or AnnData
        Raw counts in X.
    label : str, optional
        The obs column with the types; by default `cell_type`, or the only label column there is. Empty: none.
    name : str, optional
        For messages, when `source` has no path.
    modality : str, optional
        A further modality in place of rna: its counts, its features as `genes`.
    binary : bool
        Read counts as 1.
    generated : bool, optional
        Of a store that holds real and generated cells alike (obs column `is_generated`) only the generated ones, or
        only the real ones; by default all.
    labelled : bool
        Whether the cells must have the label; otherwise cells without the column, or without any value in it, are
        opened as cells of one type (see `Cells.without_types`), their `label` being empty.

    Returns
    -------
    Cells

    Raises
    ------
    BadInput
        No such store; no such column, or no value in it; duplicated gene names; several label columns to choose from;
        no cells of the kind that `generated` asks for.
    """
    if isinstance(source, ad.AnnData):
        cells, made = _from_anndata(source, label, name or "AnnData", modality, labelled)
    else:
        atlas = source if isinstance(source, Atlas) else open_atlas(source)
        cells, made = _from_atlas(atlas, label, modality, labelled)
    if generated is not None and made is not None:
        cells = _of_origin(cells, made, generated)
    cells = _labelled(cells, labelled)
    if not cells.genes.is_unique:
        twice = cells.genes[cells.genes.duplicated()][0]
        raise BadInput(f"{cells.name}: gene {twice!r} occurs more than once; expected unique gene names")
    read = cells._read
    return replace(cells, _read=lambda rows: read(rows).sign()) if binary else cells


def reopen(origin: Source, cells: Cells, *, generated: bool, **how: Any) -> Cells:
    """The same cells again, in another way: `how` is `modality` and `binary` of `open_cells`."""
    again = open_cells(
        origin, cells.label, cells.name, generated=generated, labelled=bool(cells.label), **how
    )  # fmt: skip
    return again.without_types() if cells.pooled else again


def _from_atlas(atlas: Atlas, asked: str | None, modality: str | None, labelled: bool) -> tuple[Cells, Bools | None]:
    """The cells of a store, and which of them are generated, where it says so."""
    label = _choose(atlas.name, asked, atlas.obs_columns, atlas.labels, labelled)
    split = "split" in atlas.obs_columns
    described = (atlas.card or {}).get("modalities", {})
    codes = np.full(atlas.n_cells, -1, np.int32) if label is None else atlas.small_codes(label)
    cells = Cells(
        atlas.name if modality is None else f"{atlas.name}, modality {modality!r}",
        _named(atlas.genes if modality is None else atlas.features(modality).index, modality),
        label or "",
        *_types(codes, [] if label is None else atlas.categories(label)),
        pd.Categorical.from_codes(atlas.small_codes("split"), atlas.categories("split")) if split else None,
        {"path": atlas.name, "card": atlas.card, "generation": generation_of(atlas)},
        _identity(atlas),
        {other: facts["largest"] for other, facts in described.items() if other != MAIN},
        [column for column in atlas.labels if column not in NOT_LABELS],
        atlas.obs_columns,
        lambda rows: _as_csr(atlas.read(rows, modality)),
        lambda column: (atlas.small_codes(column), atlas.categories(column)),
        lambda other: atlas.obs(f"size_factor_{other}"),
    )
    return cells, _are_true(atlas.obs(ORIGIN)) if ORIGIN in atlas.obs_columns else None


def _from_anndata(
    data: ad.AnnData, asked: str | None, name: str, modality: str | None, labelled: bool
) -> tuple[Cells, Bools | None]:
    """As `_from_atlas`."""
    categorical = [column for column in data.obs if isinstance(data.obs[column].dtype, pd.CategoricalDtype)]
    labels = [column for column in categorical if column not in NOT_LABELS]
    label = _choose(name, asked, list(data.obs.columns), labels, labelled)
    codes, categories = (np.full(data.n_obs, -1), []) if label is None else label_codes(data.obs[label])
    generation, features = data.uns.get("generation"), data.uns.get("features", {})
    counts = data.X if modality is None else data.obsm[modality]
    cells = Cells(
        name if modality is None else f"{name}, modality {modality!r}",
        _named(data.var_names if modality is None else features[modality].index, modality),
        label or "",
        *_types(codes, categories),
        pd.Categorical(data.obs["split"].astype(str)) if "split" in data.obs else None,
        {
            "path": name,
            "card": None,
            "generation": parse_generation(str(generation), name, False) if generation else None,
        },
        uuid.uuid4().hex,  # nothing is known of what was in memory at another time
        {other: data.obsm[other].max() for other in features if other in data.obsm},
        labels,
        list(data.obs.columns),
        lambda rows: sparse.csr_matrix(counts[rows]),
        lambda column: label_codes(data.obs[column]),
        lambda other: data.obsm[other].sum(axis=1),
    )
    return cells, _are_true(data.obs[ORIGIN]) if ORIGIN in data.obs else None


def _are_true(values: Any) -> Bools:
    """Which values of an obs column of yes and no are yes, whether bool, number or text; missing ones are not."""
    return pd.Series(np.asarray(values)).astype(str).str.strip().str.lower().isin(TRUE).to_numpy()


def _of_origin(cells: Cells, made: Bools, generated: bool) -> Cells:
    """The generated cells, or the real ones, of a store that may hold both."""
    rows = np.flatnonzero(made == generated)
    if len(rows) == len(cells):
        return cells
    if not len(rows):
        found, wanted = ("real", "generated") if generated else ("generated", "real")
        raise BadInput(f"{cells.name}: obs column {ORIGIN!r} says that all cells are {found}; expected {wanted} ones")
    return replace(_restricted(cells, rows), n_others=len(cells) - len(rows))


def _named(index: pd.Index, modality: str | None) -> pd.Index:
    """Names of features, the index named after what they are."""
    return index.astype(str).rename("genes" if modality is None else "features")


def check_counts(counts: sparse.csr_matrix, what: str) -> sparse.csr_matrix:
    """Counts as canonical CSR without stored zeros, or `BadInput` when the values are not counts.

    Parameters
    ----------
    counts : scipy CSR (n, G)
    what : str
        How messages call the cells.
    """
    values = counts.data
    if values.dtype.kind not in "iub":
        if not np.isfinite(values).all():
            raise BadInput(f"{what}: counts hold NaN or infinite values; expected whole numbers")
        if (values != np.rint(values)).any():
            fraction = values[values != np.rint(values)][0]
            raise BadInput(f"{what}: counts hold {fraction:g}; expected whole numbers, not normalised values")
    if values.size and values.min() < 0:
        raise BadInput(f"{what}: counts hold {values.min():g}; expected no negative values")
    if not (counts.has_canonical_format and values.all()):
        counts = counts.copy()
        counts.sum_duplicates()
        counts.eliminate_zeros()
    return counts


def _identity(atlas: Atlas) -> str:
    """Fingerprint and digest of the cells; without a digest, sizes and times of files, which change with writing.

    Of a store in a bucket, where times say when it was copied there, names and sizes.
    """
    if atlas.contents is not None:
        return hashlib.sha256(repr((atlas.fingerprint, atlas.contents)).encode()).hexdigest()
    if is_remote(atlas.name):
        sizes = sorted(place(atlas.name).sizes().items()) if place(atlas.name).is_folder() else []
        return hashlib.sha256(repr((atlas.fingerprint, sizes)).encode()).hexdigest()
    path = Path(atlas.name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    stats = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    return hashlib.sha256(repr((atlas.fingerprint, stats)).encode()).hexdigest()


def _as_csr(block: SparseRows | DenseRows) -> sparse.csr_matrix:
    """Rows as an atlas reads them, sparse or dense, as CSR."""
    return block.to_scipy() if isinstance(block, SparseRows) else sparse.csr_matrix(block.values)


def _choose(
    name: str, label: str | None, columns: Sequence[str], labels: Sequence[str], must: bool = True
) -> str | None:
    """The label column asked for, or the only one that it can be; None when there is none and need not be one."""
    if not (label or must or label is None):  # without a name: none is asked for
        return None
    if label is None:
        if DEFAULT_LABEL in columns:
            return DEFAULT_LABEL
        if len(labels) == 1:
            return labels[0]
        if not labels and not must:
            return None
        found = f"has the label columns {', '.join(labels)}" if labels else "has no label column"
        raise BadInput(f"{name}: {found}; name the one to evaluate by with `label`")
    if label not in columns:
        if not must:
            return None
        raise BadInput(f"{name}: no obs column {label!r}, {nearest(label, columns) if columns else 'it has none'}")
    return label


def _types(codes: Ints, categories: Iterable[str]) -> tuple[Array, Ints]:
    """Sorted names of the types, and codes of the cells, -1 of those without a type."""
    types, places = np.unique(np.array(list(categories), dtype=str), return_inverse=True)
    return types, np.append(places, -1).astype(np.int32)[np.asarray(codes)]


def _labelled(cells: Cells, must: bool) -> Cells:
    """The cells that have a label, as if there were no others; all of them when none has one and none must."""
    rows = np.flatnonzero(cells.codes >= 0)
    if len(rows) == len(cells) and cells.label:
        return cells
    if not len(rows):
        if must and len(cells):
            raise BadInput(f"{cells.name}: no cell has a value in obs column {cells.label!r}; expected labels")
        return replace(cells, label="").without_types()
    return replace(_restricted(cells, rows), n_unlabelled=len(cells) - len(rows))


def _restricted(cells: Cells, rows: Ints) -> Cells:
    """Some of the cells, as if there were no others."""
    read, totals, split = cells._read, cells._totals, cells.split

    def labels(column: str) -> tuple[Ints, list[str]]:
        codes, names = cells._labels(column)
        return np.asarray(codes)[rows], names

    return replace(
        cells,
        codes=cells.codes[rows],
        split=None if split is None else split[rows],
        store_rows=rows if cells.store_rows is None else cells.store_rows[rows],
        _read=lambda chosen: read(rows[chosen]),
        _labels=labels,
        _totals=lambda modality: np.asarray(totals(modality)).ravel()[rows],
    )
