"""h5ad files and AnnData-Zarr stores as sources; which of their matrices holds the counts."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.errors import DAMAGED, BadInput, nearest, readable
from data_loaders.hdf5 import CONTENTS, check_filters, content_of, content_of_group
from data_loaders.sources.counts import ROUND, fault, has_fractions, looks_logged, normalised
from data_loaders.sources.hdf5 import open_in_hdf5
from data_loaders.sources.matrices import open_matrix
from data_loaders.sources.orientation import is_turned
from data_loaders.sources.source import Group, Options, Source
from data_loaders.zarr_groups import is_unknown, names
from data_loaders.zarr_groups import open_group as open_group_of_zarr

ZIPPED = (".zarr.zip",)
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
    if not place.is_file():
        return False
    return place.suffix.lower() == ".h5ad" or path.lower().endswith(ZIPPED) or content_of(place) == "anndata"


def open(path: str, options: Options) -> Source:
    """Open an h5ad file or an AnnData-Zarr store."""
    if path.lower().endswith(ZIPPED):
        return _open_zipped(path, options)
    if not Path(path).is_dir():
        return open_in_hdf5(path, lambda root: _open_root(path, root, options))
    with readable(path):
        root = open_group_of_zarr(path)
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{path}: a single Zarr array; expected an AnnData")
    return _open_root(path, root, options)


def _open_zipped(path: str, options: Options) -> Source:
    """Open a Zarr store in a zip archive: the archive itself, or the only folder in it."""
    with readable(path):
        archive = zarr.storage.ZipStore(path, mode="r")
        with zipfile.ZipFile(path) as file:
            tops = {name.split("/")[0] for name in file.namelist()}
        top = next(iter(tops)) if len(tops) == 1 else ""
        root = zarr.open_group(archive, path=top, mode="r", use_consolidated=False)
    source = _open_root(path, root, options)
    source.file = archive
    return source


def _open_root(path: str, root: Group, options: Options) -> Source:
    """The source in a whole file or store; what holds no AnnData is named."""
    content = content_of_group(root)
    if content != "anndata" and not any(name in root for name in ("X", "layers", "raw")):
        inside = [f"{path}/{name}" for name in _inside(root)]
        if inside:
            raise BadInput(f"{path}: no AnnData but a store of some; expected one of {', '.join(inside[:5])}")
        holds = f"{', '.join(sorted(names(root))[:8]) or 'nothing'} in it; expected an AnnData"
        raise BadInput(f"{path}: {CONTENTS[content] if content else holds}")
    return open_group(path, root, options)


def _inside(root: Group) -> list[str]:
    """The AnnData in the groups of a store and in those of its groups, such as the tables of SpatialData."""
    if not isinstance(root, zarr.Group):
        return []
    with suppress(Exception):  # metadata of others
        groups = [(name, group) for name, group in root.groups()]
        groups += [(f"{name}/{inner}", deeper) for name, group in groups for inner, deeper in group.groups()]
        return [name for name, group in groups if group.attrs.get("encoding-type") == "anndata"]
    return []


def open_group(path: str, root: Group, options: Options) -> Source:
    """The source in an open AnnData, a group of an HDF5 file or Zarr store."""
    label, key = _choose(path, root, options)
    obs = _table(path, root, "obs")
    var = _table(path, root, "raw/var" if key.startswith("raw/") else "var")
    if is_turned(obs.index, var.index):
        raise BadInput(
            f"{path}: obs has the names of genes, such as {str(obs.index[0])!r}, and var those of cells, such as "
            f"{str(var.index[0])!r}; expected cells x genes: turn it round, adata.T.write_h5ad(...)"
        )
    notes = []
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = _numbered(obs.index)
    matrix = open_matrix(f"{path}: {label}", root[key])
    notes += _other_counts(path, root) if label == "X" and options.layer is None else []
    if matrix.shape[1] != len(var):
        raise BadInput(f"{path}: {label} has {matrix.shape[1]:,} columns, its var {len(var):,} rows; {DAMAGED}")
    others = _others(root, key)
    return Source(path, obs, var, matrix, np.arange(len(var)), counts_from=label, notes=notes, others=others)


def _other_counts(path: str, root: Group) -> list[str]:
    """What to note where X and layers["counts"] both begin with whole numbers, but others."""
    if "counts" not in _layers(root):
        return []
    try:
        first = [
            next((block for _, block in open_matrix(path, root[key]).blocks()), None) for key in ("X", "layers/counts")
        ]
    except BadInput:
        return []
    x, counts = first
    if x is None or counts is None or x.shape != counts.shape or fault(counts.data) is not None:
        return []
    if (x != counts).nnz == 0:
        return []
    return [f"{path}: X and layers['counts'] hold other whole numbers; X was taken, `layer='counts'` takes the others"]


def _others(root: Group, key: str) -> list[str]:
    """The options that name another matrix than the one at `key`."""
    layers = [name for name in _layers(root) if f"layers/{name}" != key]
    return [*(["layer"] if layers else []), *(["raw"] if key != "raw/X" and _has(root, "raw/X") else [])]


def _numbered(names: pd.Index) -> pd.Index:
    """Unique names as anndata makes them, without its warning."""
    from anndata.utils import make_index_unique

    return make_index_unique(names)


def _table(path: str, root: Group, key: str) -> pd.DataFrame:
    """Read obs or var."""
    if key not in root:
        raise BadInput(f"{path}: no {key} in it; expected an AnnData")
    check_filters(path, root[key])
    with readable(f"{path}: {key}"):
        table = _known_columns(root[key]) if isinstance(root[key], zarr.Group) else read_elem(root[key])
    if not isinstance(table, pd.DataFrame):
        raise BadInput(f"{path}: {key} is {type(table).__name__!r}; expected a table as anndata writes it")
    table.index = table.index.astype(str)
    nameless = int((table.index == "").sum())
    if nameless > 1:  # Zarr reads a lost chunk of names as empty ones
        raise BadInput(f"{path}: {key} has {nameless:,} rows without a name; {DAMAGED}")
    return table


def _known_columns(group: Group) -> Any:
    """A table without the columns whose data type or codec zarr does not know."""
    unknown = [name for name in names(group) if is_unknown(group, name)]
    if not unknown or str(group.attrs.get("_index")) in unknown:
        return read_elem(group)
    known = [name for name in group.attrs["column-order"] if name not in unknown]
    return pd.DataFrame({name: read_elem(group[name]) for name in known}, index=read_elem(group[group.attrs["_index"]]))


def _choose(path: str, root: Group, options: Options) -> Place:
    """The matrix that holds the counts: the one named, or the one that can only be meant."""
    layers, layer = _layers(root), options.layer
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
    if options.round_counts and not whole:
        rounded = [place for place in usual + others if _can_be_rounded(path, root, place)]
        if len(rounded) == 1:
            return rounded[0]
        if rounded:
            places = ", ".join(place.label for place in rounded)
            raise BadInput(f"{path}: values to round are in {places}; expected one of them, choose by `layer=NAME`")
    if whole:  # spliced and ambiguous counts, or binary values: only the user knows which are meant
        problems.append(f"whole numbers are in {', '.join(place.label for place in whole)}")
        raise BadInput(f"{path}: {'; '.join(problems)}; expected one of them, choose by `layer=NAME`")
    problems += [problem for problem in of_others.values() if problem is not None]
    rounds = f"; {ROUND}" if any(_can_be_rounded(path, root, place) for place in usual + others) else ""
    raise BadInput(
        f"{path}: no counts: {'; '.join(problems)}; {EXPECTED} in X, a layer (`layer=NAME`) or raw (`raw=True`){rounds}"
    )


def _can_be_rounded(path: str, root: Group, place: Place) -> bool:
    """Whether the first block of a matrix holds numbers that are neither counts nor normalised, but near to counts."""
    try:
        matrix = open_matrix(f"{path}: {place.label}", root[place.key])
    except BadInput:
        return False
    block = next((block for _, block in matrix.blocks()), None)
    if block is None or fault(block.data, round_counts=True) is not None or not has_fractions(block.data):
        return False
    return not looks_logged(block.data) and normalised(block) is None


def _layers(root: Group) -> list[str]:
    """Names of the layers."""
    return names(root["layers"]) if "layers" in root else []


def _has(root: Group, key: str) -> bool:
    """Whether an element is there; anndata writes an X of None as an element of encoding "null"."""
    return is_unknown(root, key) or (key in root and bool(root[key].attrs.get("encoding-type") != "null"))


def _problem(path: str, root: Group, place: Place) -> tuple[str | None, bool]:
    """What keeps the first block of a matrix from being counts, None if nothing; and whether it holds numbers."""
    try:
        with readable(f"{path}: {place.label}"):
            element = root[place.key]
        matrix = open_matrix(f"{path}: {place.label}", element)
    except BadInput as error:
        if place.label == "X":
            raise
        return str(error), False
    values = next((block.data for _, block in matrix.blocks()), np.zeros(0))
    problem = fault(values)
    return problem and f"{place.label} has {problem}", values.dtype.kind in "biuf"
