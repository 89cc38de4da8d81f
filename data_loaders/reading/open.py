"""Which kind of store is at a path, and the way on where cells cannot be read by rows from what is there."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from data_loaders.contents import kind_of
from data_loaders.errors import BadInput, readable
from data_loaders.hdf5 import CONTENTS, content_of_group, open_h5ad
from data_loaders.reading.anndata_store import AnnDataStore, open_zarr
from data_loaders.reading.byte_ranges import ByteSource, LocalBytes
from data_loaders.reading.filtered_store import FilteredStore
from data_loaders.reading.joined_store import JoinedStore
from data_loaders.reading.mixed_store import genes_alone
from data_loaders.reading.remote import open_remote
from data_loaders.reading.soma_census import is_public
from data_loaders.reading.soma_store import SomaStore, is_soma
from data_loaders.reading.source_store import open_mudata, open_one_source
from data_loaders.reading.store import Store
from data_loaders.sources import mudata
from data_loaders.sources.open import FORMATS
from data_loaders.sources.source import Options
from data_loaders.storage import is_remote, shown
from data_loaders.types import PathLike

ZARR = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata")
IN_HDF5 = (".h5ad", ".h5", ".h5mu")  # names of kinds that are read by rows: what is in them is something else
EXPECTED = "expected an AnnData-Zarr store, an h5ad, h5mu or 10x HDF5 file, or a SOMA experiment"


class How(NamedTuple):
    """How paths are opened; see `reading.atlas.open_atlas`."""

    options: Options
    storage: dict[str, Any] | None = None
    obs_filter: str | None = None
    soma: Mapping[str, Any] | None = None


def open_store(
    paths: Sequence[PathLike], how: How, var_names: Sequence[str | None], join: str, min_shared: float
) -> Store:
    """The store at some paths, several as one.

    Parameters
    ----------
    paths : list of paths or URLs
    how : How
    var_names : list of (str or None)
        The var column that names the genes of each path.
    join, min_shared : str, float
        See `reading.joined_store.JoinedStore`.

    Raises
    ------
    BadInput
        When nothing is there that can be read by rows, or stores cannot be joined.
    """
    stores: list[Store] = []
    for path, column in zip(paths, var_names, strict=True):
        found = _stores_at(path, how, column)
        for store in found if column is not None else ():
            store.var()  # a column that the user named is looked at now
        stores += found
    store = genes_alone(stores[0]) if len(stores) == 1 else JoinedStore(stores, join, min_shared)
    if how.obs_filter is None or isinstance(stores[0], SomaStore):
        return store
    return FilteredStore(store, how.obs_filter)


def _stores_at(path: PathLike, how: How, var_names: str | None) -> Sequence[Store]:
    """The stores at a path: one, or those of a folder of stores."""
    options, name, place = how.options, str(path), Path(path)
    if is_remote(path):
        return _at_address(name, how, var_names)
    if is_soma(path):
        soma = dict(how.soma or {}, obs_filter=how.obs_filter, var_names=var_names)
        return [SomaStore(path, layer=options.layer, raw=options.raw, **soma)]
    if how.soma:
        raise BadInput(f"{path}: {', '.join(f'`{name}`' for name in how.soma)} given, but it is no SOMA experiment")
    if mudata.recognises(name):
        return [open_one_source(name, options, var_names)]
    if not place.exists():
        if any(known.recognises(name) for known in FORMATS):  # FILE.h5:GENOME, a sample of several in a folder
            return [open_one_source(name, options, var_names)]
        raise BadInput(f"{path}: no such file or folder; {EXPECTED}")
    odd = next((entry for entry in (place, place / "zarr.json") if entry.exists() and not _is_plain(entry)), None)
    if odd is not None:  # reading a pipe would wait for ever
        raise BadInput(f"{odd}: a pipe or a device; {EXPECTED}")
    if place.is_file():
        return [_in_file(name, options, var_names)]
    if not any((place / member).exists() for member in ZARR):
        _refuse_others(name)
    local = LocalBytes(place)
    return _in_zarr(open_zarr(name, place), local, name, options, var_names)


def _at_address(path: str, how: How, var_names: str | None) -> Sequence[Store]:
    """The stores at an address: Zarr, or else SOMA."""
    if not how.soma and not is_public(path):
        if Path(path.partition("?")[0]).suffix in IN_HDF5:
            raise BadInput(
                f"{shown(path)}: HDF5 is read by rows from a disk alone; copy it there, or make a store of it that is "
                "read where it is: `ingest()`"
            )
        try:
            root, remote = open_remote(path, how.storage)
            return _in_zarr(root, remote, remote.name, how.options, var_names)
        except BadInput as error:
            if "not a Zarr store" not in str(error) and "are not known" not in str(error):
                raise
            if not is_soma(path, how.storage):
                raise
    elif not is_soma(path, how.storage):
        given = ", ".join(f"`{name}`" for name in how.soma or ())
        raise BadInput(f"{shown(path)}: {given} given, but it is no SOMA experiment")
    soma = dict(how.soma or {}, obs_filter=how.obs_filter, var_names=var_names)
    soma["config"] = dict(how.storage or {}) | dict(soma.get("config") or {})
    return [SomaStore(path, layer=how.options.layer, raw=how.options.raw, **soma)]


def _in_zarr(
    root: Any, source: ByteSource, path: str, options: Options, var_names: str | None
) -> Sequence[AnnDataStore]:
    """The AnnData in a Zarr store, or those in the folders of one."""
    if root.attrs.get("encoding-type") != "anndata" and "X" not in root:
        inside = {name: group for name, group in root.groups() if group.attrs.get("encoding-type") == "anndata"}
        if inside:
            names = sorted(inside, key=lambda name: [int(part) for part in re.findall(r"\d+", name)] or [name])
            stores = [AnnDataStore(inside[name], source, f"{path}/{name}", options, var_names) for name in names]
            for store in stores:
                store.is_shuffled = root.attrs.get("encoding-type") == "annbatch-preshuffled"
            return stores
    return [AnnDataStore(root, source, path, options, var_names)]


def _in_file(path: str, options: Options, var_names: str | None) -> Store:
    """The store in a file: an AnnData, a MuData, or what else has cells in rows."""
    if not h5py.is_hdf5(path):
        _refuse_others(path)
        raise BadInput(f"{path}: cannot be read as an HDF5 file, it is of another kind or cut short; {EXPECTED}")
    is_store = False
    with readable(path):
        root = open_h5ad(path)
        try:
            keys, content = sorted(root), content_of_group(root)
            is_store = content == "anndata" or (content is None and "X" in keys)
            if is_store:
                return AnnDataStore(root, None, path, options, var_names)
        finally:
            if not is_store:
                root.close()
    if content == "mudata":
        return open_mudata(path, options, var_names)
    if content in ("loom", "seurat"):
        raise BadInput(f"{path}: {CONTENTS[content]}")
    if any(known.recognises(path) for known in FORMATS):
        return open_one_source(path, options, var_names)
    raise BadInput(f"{path}: an HDF5 file with {', '.join(keys[:8]) or 'nothing in it'}; {EXPECTED}")


def _refuse_others(path: str) -> None:
    """Refuse what `ingest` reads and rows cannot be read from, and files that certainly are something else."""
    known = next((known for known in FORMATS if known.recognises(path)), None)
    if known is not None and Path(path).suffix.lower() not in IN_HDF5:
        raise BadInput(f"{path}: {known.name} whose cells cannot be read one by one; `ingest()` makes a store of it")
    kind = kind_of(path) if Path(path).is_file() else None
    if kind is not None:
        raise BadInput(f"{path}: {kind}")


def _is_plain(path: Path) -> bool:
    return path.is_file() or path.is_dir()
