"""From a store to an h5ad or h5mu file or a SOMA experiment, slice by slice."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
from anndata.io import read_elem, write_elem

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.exporting.mudata import write_h5mu
from data_loaders.exporting.soma import write_soma
from data_loaders.files import begin_output, finish_output, refuse_address, refuse_existing
from data_loaders.locks import alone
from data_loaders.manifest import ELEMENT
from data_loaders.progress import progress
from data_loaders.reading.checked import open_checked
from data_loaders.reading.chunks import DiskArray
from data_loaders.reading.reader import DiskGroup
from data_loaders.types import PathLike

SLICE = 1 << 22  # values copied at a time
FORMATS = ("h5ad", "h5mu", "soma")


@alone()
def export(store: PathLike, out: PathLike, *, to: str = "h5ad") -> None:
    """Write a store, real or generated, as a file that other tools read.

    Counts are copied in slices, so memory does not grow with them; tables (obs, var, uns) are held while written.

    Parameters
    ----------
    store : path-like
        AnnData-Zarr store.
    out : path-like
        File or folder to write; must not exist.
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
    place = refuse_existing(out)
    refuse_address(store, "export reads a store on a disk; copy it there first")
    try:
        source, manifest, _ = open_checked(store)
        source["X"], source["obs"], source["var"]
    except BadInput:
        raise
    except (FileNotFoundError, KeyError, ValueError, OSError) as error:
        raise BadInput(f"{store}: no AnnData-Zarr store there ({' '.join(str(error).split())})") from error
    folder = begin_output(place)
    built = folder / place.name
    if to == "soma":
        try:
            write_soma(store, built)
            finish_output(built, place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        _refuse_full_disk(store, folder, place)
        if to == "h5mu":
            write_h5mu(source, built, str(store), _copy)
            finish_output(built, place)
            return
        with h5py.File(built, "w") as target:
            target.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            _copy(source, target, "X")
            for name in ("obs", "var", "uns", "varm", "obsm", "layers", "obsp", "varp"):
                if name in source:
                    _copy(source, target, name)
            if manifest is not None:
                del target[f"uns/{ELEMENT}"]  # of files that are not there
        finish_output(built, place)
    finally:
        for leftover in (built, folder):
            _remove(leftover)


def _refuse_full_disk(store: PathLike, folder: Path, out: Path) -> None:
    """Refuse to begin without room for about the size of the store: HDF5 crashes Python when a disk runs full."""
    needed = sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BadInput(f"{out}: no space left on device: {free:,} bytes are free, expected about {needed:,}")


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


def _remove(path: Path) -> None:
    if Path(path).is_dir():
        os.rmdir(path)
    elif Path(path).exists():
        os.unlink(path)
