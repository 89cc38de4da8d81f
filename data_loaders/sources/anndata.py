"""h5ad files and AnnData-Zarr stores as sources."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.errors import DAMAGED, BadInput, readable
from data_loaders.hdf5 import CONTENTS, check_filters, content_of, content_of_group
from data_loaders.reading.checked import checked
from data_loaders.reading.remote import open_remote
from data_loaders.sources.hdf5 import open_in_hdf5
from data_loaders.sources.matrices import open_matrix
from data_loaders.sources.orientation import is_turned
from data_loaders.sources.source import Group, Options, Source
from data_loaders.sources.which import other_counts, other_places, place_of_counts
from data_loaders.storage import is_remote, place, shown
from data_loaders.zarr_groups import is_unknown, names
from data_loaders.zarr_groups import open_group as open_group_of_zarr

ZIPPED = (".zarr.zip",)
IN_ZARR = ("zarr.json", ".zgroup", ".zattrs")


def recognises(path: str) -> bool:
    """Whether a path is an h5ad file or an AnnData-Zarr store, version 2 or 3."""
    if is_remote(path):
        return _is_remote_store(path)
    folder = Path(path)
    if folder.is_dir():
        return any((folder / name).exists() for name in IN_ZARR)
    if not folder.is_file():
        return False
    return folder.suffix.lower() == ".h5ad" or path.lower().endswith(ZIPPED) or content_of(folder) == "anndata"


def open(path: str, options: Options) -> Source:
    """Open an h5ad file or an AnnData-Zarr store."""
    if is_remote(path):
        name = shown(path)
        return _open_root(name, checked(open_remote(path)[0], name)[0], options)
    if path.lower().endswith(ZIPPED):
        return _open_zipped(path, options)
    if not Path(path).is_dir():
        return open_in_hdf5(path, lambda root: _open_root(path, root, options))
    with readable(path):
        root = open_group_of_zarr(path)
        if isinstance(root, zarr.Group):
            root, _, _ = checked(root, path)
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{path}: a single Zarr array; expected an AnnData")
    return _open_root(path, root, options)


def _is_remote_store(path: str) -> bool:
    """Whether a Zarr store is at an address; never at one of a kind that only others know."""
    try:
        found = place(path)
    except BadInput:
        return False
    return any((found / name).is_file() for name in IN_ZARR)


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
    place = place_of_counts(path, root, options)
    label, key = place
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
    notes += other_counts(path, root) if label == "X" and options.layer is None else []
    if matrix.shape[1] != len(var):
        raise BadInput(f"{path}: {label} has {matrix.shape[1]:,} columns, its var {len(var):,} rows; {DAMAGED}")
    others = other_places(root, place)
    return Source(path, obs, var, matrix, np.arange(len(var)), counts_from=label, notes=notes, others=others)


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
