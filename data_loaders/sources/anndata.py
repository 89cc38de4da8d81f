"""h5ad files and AnnData-Zarr stores as sources; which of their matrices holds the counts."""

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.errors import DAMAGED, BadInput, nearest, readable
from data_loaders.sources.counts import fault
from data_loaders.sources.matrices import open_matrix

EXPECTED = "expected raw counts (whole numbers, 0 or more)"


def open_h5ad(path, layer, raw):
    """The parts of a `sources.Source` from an h5ad file."""
    with readable(path):
        root = h5py.File(path, "r")
    try:
        return open_group(path, root, layer, raw) | {"file": root}
    except BadInput:
        root.close()
        raise


def open_zarr(path, layer, raw):
    """The parts of a `sources.Source` from an AnnData-Zarr store, version 2 or 3."""
    with readable(path):
        root = zarr.open_group(path, mode="r")
    return open_group(path, root, layer, raw)


def open_group(path, root, layer, raw):
    """The parts of a `sources.Source` from an open AnnData, a group of an HDF5 or Zarr file."""
    if layer is not None and raw:
        raise BadInput(f"{path}: --layer {layer} and --raw together; expected one of them")
    label, key = _choose(path, root, layer, raw)
    obs = _table(path, root, "obs")
    var = _table(path, root, "raw/var" if key.startswith("raw/") else "var")
    notes = []
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = _numbered(obs.index)
    return {
        "obs": obs,
        "var": var,
        "matrix": open_matrix(f"{path}: {label}", root[key]),
        "features": np.arange(len(var)),
        "counts_from": label,
        "notes": notes,
        "choices": "--layer NAME or --raw",
    }


def _numbered(names):
    """Unique names as anndata makes them, without its warning."""
    from anndata.utils import make_index_unique

    return make_index_unique(names)


def _table(path, root, key):
    """Read obs or var."""
    if key not in root:
        raise BadInput(f"{path}: no {key} in it; expected an AnnData")
    with readable(f"{path}: {key}"):
        table = read_elem(root[key])
    if not isinstance(table, pd.DataFrame):
        raise BadInput(f"{path}: {key} is in a format of anndata before 0.7; read and write the file with a newer one")
    table.index = table.index.astype(str)
    nameless = int((table.index == "").sum())
    if nameless > 1:  # Zarr reads a lost chunk of names as empty ones
        raise BadInput(f"{path}: {key} has {nameless:,} rows without a name; {DAMAGED}")
    return table


def _choose(path, root, layer, raw):
    """Label and key of the matrix that holds the counts: the one named, or the one that can only be meant."""
    layers = list(root["layers"]) if "layers" in root else []
    if layer is not None:
        if layer not in layers:
            raise BadInput(f"{path}: no layer {layer!r}; " + (nearest(layer, layers) if layers else "it has none"))
        return f"layers[{layer!r}]", f"layers/{layer}"
    if raw:
        if not _has(root, "raw/X"):
            raise BadInput(f"{path}: --raw was asked for, but it has no raw")
        return "raw.X", "raw/X"
    usual = [("X", "X"), ("layers['counts']", "layers/counts"), ("raw.X", "raw/X")]
    usual = [(label, key) for label, key in usual if _has(root, key)]
    others = [(f"layers[{name!r}]", f"layers/{name}") for name in sorted(layers) if name != "counts"]
    if not usual + others:
        raise BadInput(f"{path}: no X, layers or raw in it; {EXPECTED}")
    found = []
    for label, key in usual:
        problem, numbers = _problem(path, root, label, key)
        if problem is None or (numbers and len(usual + others) == 1):  # reading the only one says where its fault is
            return label, key
        found.append(problem)
    problems = {(label, key): _problem(path, root, label, key)[0] for label, key in others}
    whole = [place for place, problem in problems.items() if problem is None]
    if len(whole) == 1:
        return whole[0]
    if whole:  # spliced and ambiguous counts, or binary values: only the user knows which are meant
        names = ", ".join(label for label, _ in whole)
        found.append(f"whole numbers are in {names}")
        raise BadInput(f"{path}: {'; '.join(found)}; expected one of them, choose by --layer NAME")
    found += problems.values()
    raise BadInput(f"{path}: no counts: {'; '.join(found)}; {EXPECTED} in X, a layer (--layer NAME) or raw (--raw)")


def _has(root, key):
    """Whether an element is there; anndata writes an X of None as an element of encoding "null"."""
    return key in root and root[key].attrs.get("encoding-type") != "null"


def _problem(path, root, label, key):
    """What keeps the first block of a matrix from being counts, None if nothing; and whether it holds numbers."""
    try:
        matrix = open_matrix(f"{path}: {label}", root[key])
    except BadInput as error:
        if label == "X":
            raise
        return str(error), False
    values = next((block.data for _, block in matrix.blocks()), np.zeros(0))
    problem = fault(values)
    return problem and f"{label} has {problem}", values.dtype.kind in "biuf"
