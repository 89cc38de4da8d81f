"""h5ad files and AnnData-Zarr stores as sources; which of their matrices holds the counts."""

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.counts import fault
from data_loaders.errors import BadInput, nearest
from data_loaders.matrices import open_matrix, readable

EXPECTED = "expected raw counts (whole numbers, 0 or more)"


def open_h5ad(path, layer, raw):
    """The parts of a `sources.Source` from an h5ad file."""
    with readable(path):
        root = h5py.File(path, "r")
    try:
        return _open_root(path, root, layer, raw) | {"file": root}
    except BadInput:
        root.close()
        raise


def open_zarr(path, layer, raw):
    """The parts of a `sources.Source` from an AnnData-Zarr store, version 2 or 3."""
    with readable(path):
        root = zarr.open_group(path, mode="r")
    return _open_root(path, root, layer, raw)


def _open_root(path, root, layer, raw):
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
    return table


def _choose(path, root, layer, raw):
    """Label and key of the matrix that holds the counts: the one named, or the first that looks like counts."""
    layers = list(root["layers"]) if "layers" in root else []
    if layer is not None:
        if layer not in layers:
            raise BadInput(f"{path}: no layer {layer!r}; " + (nearest(layer, layers) if layers else "it has none"))
        return f"layers[{layer!r}]", f"layers/{layer}"
    if raw:
        if "raw/X" not in root:
            raise BadInput(f"{path}: --raw was asked for, but it has no raw")
        return "raw.X", "raw/X"
    candidates = [("X", "X")] if "X" in root else []
    candidates += [
        (f"layers[{name!r}]", f"layers/{name}") for name in sorted(layers, key=lambda name: name != "counts")
    ]
    candidates += [("raw.X", "raw/X")] if "raw/X" in root else []
    found = []
    for label, key in candidates:
        try:
            matrix = open_matrix(f"{path}: {label}", root[key])
        except BadInput as error:
            if label == "X":
                raise
            found.append(str(error))
            continue
        problem = fault(next((block.data for _, block in matrix.blocks()), np.zeros(0)))
        if problem is None:
            return label, key
        found.append(f"{label} has {problem}")
    if not found:
        raise BadInput(f"{path}: no X, layers or raw in it; {EXPECTED}")
    raise BadInput(f"{path}: no counts: {'; '.join(found)}; {EXPECTED} in X, a layer (--layer NAME) or raw (--raw)")
