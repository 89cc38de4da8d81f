"""Where cells to evaluate come from: an atlas store, an h5ad file or AnnData in memory, seen alike."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse

from cfgen_dist.evaluate.reference import check_cells
from data_loaders.atlas import Atlas, open_atlas
from data_loaders.errors import BadInput, nearest

DEFAULT_LABEL = "cell_type"


@dataclass(eq=False)
class Cells:
    """Cells with one label column; counts are read by rows. Made by `open_cells`.

    Attributes
    ----------
    name : str
        For messages.
    genes : pandas.Index (G,)
    label : str
    labels : array of str (n,)
    split : array of str (n,), or None without such a column
    provenance : dict
        What the store says of itself: its card, its generation.
    """

    name: str
    genes: pd.Index
    label: str
    labels: np.ndarray
    split: np.ndarray | None
    provenance: dict
    _read: object = field(repr=False)
    _columns: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)

    def read(self, rows):
        """Counts (CSR) of `rows`, in that order; BadInput when they are no counts."""
        counts, _ = check_cells(self._read(rows), self.labels[rows], self.name)
        return counts if self._columns is None else counts[:, self._columns]

    def rows_of(self, split):
        """Rows of `train` or `test` cells, ascending; BadInput when there are none."""
        if self.split is None:
            raise BadInput(f"{self.name}: no obs column 'split'; expected one with train and test cells")
        rows = np.flatnonzero(self.split == split)
        if not len(rows):
            found = ", ".join(f"{n} {name}" for name, n in pd.Series(self.split).value_counts().items())
            raise BadInput(f"{self.name}: no {split} cells in obs column 'split' (found {found or 'no cells'})")
        return rows

    def in_order_of(self, genes):
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
                f"{self.name}: its {len(self.genes)} genes are not the real cells' {len(genes)}: {', '.join(parts)}"
            )
        columns = self.genes.get_indexer(genes)
        return Cells(self.name, genes, self.label, self.labels, self.split, self.provenance, self._read, columns)


def open_cells(source, label=None, name=None):
    """Open cells for evaluation.

    Parameters
    ----------
    source : path-like, Atlas or AnnData
        Raw counts in X.
    label : str, optional
        The obs column with the types; by default `cell_type`, or the only label column there is.
    name : str, optional
        For messages, when `source` has no path.

    Returns
    -------
    Cells

    Raises
    ------
    BadInput
        No such store; no such column, or missing values in it; duplicated gene names; several label columns to choose
        from.
    """
    if isinstance(source, ad.AnnData):
        return _from_anndata(source, label, name or "AnnData")
    atlas = source if isinstance(source, Atlas) else open_atlas(source)
    label = _choose(atlas.name, label, atlas.obs_columns, atlas.labels)
    provenance = {"path": atlas.name, "card": atlas.card, "generation": _generation(atlas.name)}
    return _checked(
        Cells(
            atlas.name,
            atlas.genes.astype(str),
            label,
            _names(atlas.codes(label), atlas.categories(label), atlas.name, label),
            np.array(atlas.categories("split"), object)[atlas.codes("split")] if "split" in atlas.obs_columns else None,
            provenance,
            lambda rows: _as_csr(atlas.read(rows)),
        )
    )


def _from_anndata(data, label, name):
    categorical = [column for column in data.obs if isinstance(data.obs[column].dtype, pd.CategoricalDtype)]
    labels = [column for column in categorical if column not in ("split", "shard", "is_generated")]
    label = _choose(name, label, list(data.obs.columns), labels)
    values = data.obs[label].astype("category")
    names = _names(values.cat.codes.to_numpy(), values.cat.categories.astype(str), name, label)
    split = data.obs["split"].astype(str).to_numpy(object) if "split" in data.obs else None
    genes = data.var_names.astype(str)
    generation = data.uns.get("generation")
    provenance = {"path": name, "card": None, "generation": json.loads(generation) if generation else None}
    return _checked(Cells(name, genes, label, names, split, provenance, lambda rows: sparse.csr_matrix(data.X[rows])))


def _as_csr(block):
    """Rows as an atlas reads them, sparse or dense, as CSR."""
    return block.to_scipy() if hasattr(block, "to_scipy") else sparse.csr_matrix(block.values)


def _generation(path):
    """What `cfgen-dist generate` noted in a store: the plan and the model's provenance; None in any other."""
    path = Path(path)
    if not path.exists():  # atlases on remote storage are not local paths
        return None
    root = zarr.open_group(path, mode="r") if path.is_dir() else h5py.File(path, "r")
    return json.loads(str(read_elem(root["uns/generation"]))) if "generation" in root.get("uns", {}) else None


def _choose(name, label, columns, labels):
    if label is None:
        if DEFAULT_LABEL in columns:
            return DEFAULT_LABEL
        if len(labels) == 1:
            return labels[0]
        found = f"has the label columns {', '.join(labels)}" if labels else "has no label column"
        raise BadInput(f"{name}: {found}; name the one to evaluate by with --label")
    if label not in columns:
        raise BadInput(f"{name}: no obs column {label!r}, {nearest(label, columns) if columns else 'it has none'}")
    return label


def _names(codes, categories, name, label):
    codes = np.asarray(codes)
    if (codes < 0).any():
        raise BadInput(
            f"{name}: obs column {label!r} has {int((codes < 0).sum())} missing values; expected a label for each cell"
        )
    return np.array(list(categories), dtype=str)[codes] if len(codes) else np.empty(0, str)


def _checked(cells):
    if not cells.genes.is_unique:
        twice = cells.genes[cells.genes.duplicated()][0]
        raise BadInput(f"{cells.name}: gene {twice!r} occurs more than once; expected unique gene names")
    return cells
