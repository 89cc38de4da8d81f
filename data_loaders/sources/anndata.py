"""h5ad files and AnnData-Zarr stores as sources; which of their matrices holds the counts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.errors import DAMAGED, BadInput, nearest, readable
from data_loaders.reading.checked import checked
from data_loaders.sources.counts import fault
from data_loaders.sources.hdf5 import open_in_hdf5
from data_loaders.sources.matrices import open_matrix
from data_loaders.sources.source import Group, Options, Source

EXPECTED = "expected raw counts (whole numbers, 0 or more)"


class Place(NamedTuple):
    """Where a matrix is in an AnnData: what users call it, and its key."""

    label: str
    key: str


USUAL = (Place("X", "X"), Place("layers['counts']", "layers/counts"), Place("raw.X", "raw/X"))


def recognises(path: str) -> bool:
    """Whether a path is an h5ad file or an AnnData-Zarr store, version 2 or 3."""
    place = Path(path)
    if place.is_dir():
        return any((place / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))
    return place.suffix == ".h5ad" and place.is_file()


def open(path: str, options: Options) -> Source:
    """Open an h5ad file or an AnnData-Zarr store."""
    if not Path(path).is_dir():
        return open_in_hdf5(path, lambda root: open_group(path, root, options))
    with readable(path):
        root, _, _ = checked(zarr.open_group(path, mode="r"), path)
    return open_group(path, root, options)


def open_group(path: str, root: Group, options: Options) -> Source:
    """The source in an open AnnData, a group of an HDF5 file or Zarr store."""
    label, key = _choose(path, root, options)
    obs = _table(path, root, "obs")
    var = _table(path, root, "raw/var" if key.startswith("raw/") else "var")
    notes = []
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = _numbered(obs.index)
    matrix = open_matrix(f"{path}: {label}", root[key])
    return Source(path, obs, var, matrix, np.arange(len(var)), counts_from=label, notes=notes)


def _numbered(names: pd.Index) -> pd.Index:
    """Unique names as anndata makes them, without its warning."""
    from anndata.utils import make_index_unique

    return make_index_unique(names)


def _table(path: str, root: Group, key: str) -> pd.DataFrame:
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


def _choose(path: str, root: Group, options: Options) -> Place:
    """The matrix that holds the counts: the one named, or the one that can only be meant."""
    layers, layer = list(root["layers"]) if "layers" in root else [], options.layer
    if layer is not None and options.raw:
        raise BadInput(f"{path}: `layer={layer!r}` and `raw=True` together; expected one of them")
    if layer is not None:
        if layer not in layers:
            raise BadInput(f"{path}: no layer {layer!r}; " + (nearest(layer, layers) if layers else "it has none"))
        return Place(f"layers[{layer!r}]", f"layers/{layer}")
    if options.raw:
        if not _has(root, "raw/X"):
            raise BadInput(f"{path}: `raw=True` was asked for, but it has no raw")
        return Place("raw.X", "raw/X")
    usual = [place for place in USUAL if _has(root, place.key)]
    others = [Place(f"layers[{name!r}]", f"layers/{name}") for name in sorted(layers) if name != "counts"]
    if not usual + others:
        raise BadInput(f"{path}: no X, layers or raw in it; {EXPECTED}")
    problems = []
    for place in usual:
        problem, numbers = _problem(path, root, place)
        if problem is None or (numbers and len(usual + others) == 1):  # reading the only one says where its fault is
            return place
        problems.append(problem)
    of_others = {place: _problem(path, root, place)[0] for place in others}
    whole = [place for place, problem in of_others.items() if problem is None]
    if len(whole) == 1:
        return whole[0]
    if whole:  # spliced and ambiguous counts, or binary values: only the user knows which are meant
        problems.append(f"whole numbers are in {', '.join(place.label for place in whole)}")
        raise BadInput(f"{path}: {'; '.join(problems)}; expected one of them, choose by `layer=NAME`")
    problems += [problem for problem in of_others.values() if problem is not None]
    raise BadInput(
        f"{path}: no counts: {'; '.join(problems)}; {EXPECTED} in X, a layer (`layer=NAME`) or raw (`raw=True`)"
    )


def _has(root: Group, key: str) -> bool:
    """Whether an element is there; anndata writes an X of None as an element of encoding "null"."""
    return key in root and bool(root[key].attrs.get("encoding-type") != "null")


def _problem(path: str, root: Group, place: Place) -> tuple[str | None, bool]:
    """What keeps the first block of a matrix from being counts, None if nothing; and whether it holds numbers."""
    try:
        matrix = open_matrix(f"{path}: {place.label}", root[place.key])
    except BadInput as error:
        if place.label == "X":
            raise
        return str(error), False
    values = next((block.data for _, block in matrix.blocks()), np.zeros(0))
    problem = fault(values)
    return problem and f"{place.label} has {problem}", values.dtype.kind in "biuf"
