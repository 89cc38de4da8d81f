"""From a store to an h5ad or h5mu file or a SOMA experiment, slice by slice."""

import logging
import shutil
from pathlib import Path

import h5py
import numpy as np
import zarr
from anndata.io import read_elem, write_elem

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.exporting.mudata import write_h5mu
from data_loaders.exporting.soma import write_soma
from data_loaders.files import begin_output, finish_output, temporary_folder
from data_loaders.locks import alone
from data_loaders.manifest import ELEMENT, Manifest
from data_loaders.progress import progress
from data_loaders.reading.checked import open_checked
from data_loaders.reading.chunks import DiskArray
from data_loaders.reading.reader import DiskGroup
from data_loaders.storage import Place, is_remote, place, shown
from data_loaders.types import PathLike
from data_loaders.writing.building import NOTE, check_new, note_of

log = logging.getLogger("data_loaders")
SLICE = 1 << 22  # values copied at a time
FORMATS = ("h5ad", "h5mu", "soma")


@alone(remote=True)
def export(store: PathLike, out: PathLike, *, to: str = "h5ad") -> None:
    """Write a store, real or generated, as a file that other tools read.

    Counts are copied in slices, so memory does not grow with them; tables (obs, var, uns) are held while written.

    Parameters
    ----------
    store : path-like or address
        AnnData-Zarr store.
    out : path-like or address
        File or folder to write; must not exist. What goes to an address is written to a temporary file first (TMPDIR).
    to : {"h5ad", "h5mu", "soma"}
        Format. The h5ad file is compressed with gzip level 1, and keeps further modalities in obsm; the h5mu file has
        every modality as an AnnData of its own; the SOMA experiment has obs and the measurement RNA with
        var and the counts (X/data), and no uns.

    Raises
    ------
    BadInput
        `store` is no AnnData store, the format is unknown, `out` exists, or the disk has less free space than the store
        takes. A disk that runs full later, for other reasons, can still crash HDF5.
    """
    if to not in FORMATS:
        raise BadInput(f"`to={to!r}`: {nearest(to, FORMATS)}")
    check_new(out)
    try:
        source, manifest, _ = open_checked(store)
        source["X"], source["obs"], source["var"]
    except BadInput:
        raise
    except (FileNotFoundError, KeyError, ValueError, OSError) as error:
        raise BadInput(f"{shown(store)}: no AnnData-Zarr store there ({' '.join(str(error).split())})") from error
    name = place(out).name
    if is_remote(out):
        with temporary_folder(out) as folder:
            _build(store, source, manifest, folder / name, to, out)
            log.info("%s: written to a temporary file, and copied there", shown(out))
            _upload(folder / name, place(out))
        return
    folder = begin_output(out)
    try:
        _build(store, source, manifest, folder / name, to, out)
        finish_output(folder / name, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(store: PathLike, source: zarr.Group, manifest: Manifest | None, built: Path, to: str, out: PathLike) -> None:
    """Write the file or folder `built` on a disk."""
    if to == "soma":
        write_soma(store, built)
        return
    _refuse_full_disk(store, built.parent, out)
    if to == "h5mu":
        write_h5mu(source, built, shown(store), _copy)
        return
    with h5py.File(built, "w") as target:
        target.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _copy(source, target, "X")
        for name in ("obs", "var", "uns", "varm", "obsm", "layers", "obsp", "varp"):
            if name in source:
                _copy(source, target, name)
        if manifest is not None:
            del target[f"uns/{ELEMENT}"]  # of files that are not there


def _upload(built: Path, out: Place) -> None:
    """Copy a finished file or folder to a bucket; of a TileDB group last what makes it one."""
    if built.is_file():
        out.upload(built, new=True)
        return
    note = note_of(out)
    note.write(NOTE)
    out.remove_tree()
    last = [entry for entry in built.iterdir() if entry.name.startswith("__")]
    for entry in sorted(set(built.iterdir()) - set(last)) + sorted(last):
        (out / entry.name).upload(entry)
    note.remove()


def _refuse_full_disk(store: PathLike, folder: Path, out: PathLike) -> None:
    """Refuse to begin without room for about the size of the store: HDF5 crashes Python when a disk runs full."""
    needed = sum(place(store).sizes().values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(f"{shown(out)}: no space left on device: {free:,} bytes are free, expected about {needed:,}")


def _copy(source: DiskGroup, target: DiskGroup, key: str, name: str | None = None) -> None:
    """Copy an element, as `name`: sparse matrices and large arrays in slices, groups one by one, the rest whole."""
    element, name = source[key], name or key
    kind = element.attrs.get("encoding-type", "")
    if kind in ("csr_matrix", "csc_matrix"):
        group = target.create_group(name)
        group.attrs.update({name: element.attrs[name] for name in ("encoding-type", "encoding-version")})
        group.attrs["shape"] = np.array(element.attrs["shape"])
        for part in ("data", "indices", "indptr"):
            _copy_array(element[part], group, part, wide=part == "indices", description=f"{name}/{part}")
    elif kind == "array" and element.ndim:
        dataset = _copy_array(element, target, name, wide=False, description=key)
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    elif kind == "dict" and key != "uns":
        group = target.create_group(name)
        group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for part in element:
            _copy(element, group, part)
    else:
        write_elem(target, name, read_elem(element))


def _copy_array(array: DiskArray, group: DiskGroup, name: str, *, wide: bool, description: str) -> DiskArray:
    """Copy a Zarr array into an HDF5 dataset. `wide`: column numbers as int32 or int64, the types that scipy has."""
    dtype = array.dtype
    if wide:
        dtype = np.dtype(np.int64 if dtype.itemsize > 4 else np.int32)
    compressed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.size else {}
    chunks = (min(array.shape[0], 1 << 16), *array.shape[1:]) if array.size else None
    dataset = group.create_dataset(name, shape=array.shape, dtype=dtype, chunks=chunks, **compressed)
    step = max(SLICE // max(int(np.prod(array.shape[1:])), 1), 1)
    with progress(f"copy {description}", array.shape[0], "rows" if array.ndim > 1 else "values") as advance:
        for start in range(0, array.shape[0], step):
            stop = min(start + step, array.shape[0])
            with readable(f"{getattr(array.store, 'root', array.store)}: {description}"):
                values = array[start:stop]
            dataset[start:stop] = values
            advance(stop - start)
    return dataset
