"""HDF5 files opened for reading: those compressed by plugins too, and AnnData files from before anndata 0.7."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import h5py

from data_loaders.contents import kind_of
from data_loaders.errors import BadInput
from data_loaders.older_h5ad import TABLES, Renewed, is_old
from data_loaders.types import PathLike
from data_loaders.zarr_groups import names

CONTENTS = {  # what files hold → what to do with them where something else was expected
    "anndata": "an AnnData: its name must end in .h5ad",
    "mudata": "a MuData: its name must end in .h5mu",
    "10x": "a 10x file: its name must end in .h5",
    "loom": "a loom file: write an h5ad file of it (anndata.io.read_loom(...).write_h5ad(...))",
    "seurat": "a Seurat file: write an h5ad file of it (in R, SeuratDisk::Convert)",
}
FIRST_OF_PLUGINS = 256  # lower numbers are filters of the HDF5 library itself
PLUGINS = {  # filters that hdf5plugin has, by their registered number
    305: "LZO",
    307: "bzip2",
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "zstd",
    32017: "SZ",
    32018: "FCIDECOMP",
    32024: "SZ3",
    32026: "Blosc2",
    32028: "SPERR",
}
with contextlib.suppress(ImportError):  # the extra `hdf5`: importing it registers its filters
    import hdf5plugin  # noqa: F401


def open_hdf5(path: PathLike) -> h5py.File:
    """Open a file for reading.

    Raises
    ------
    OSError
        As h5py raises it.
    BadInput
        Another program has it open for writing, or it certainly is a file of another kind, whatever its name.
    """
    try:
        return h5py.File(os.fspath(path), "r")
    except OSError as error:
        if "unable to lock file" in str(error):
            raise BadInput(
                f"{path}: another program has it open for writing; close it there (on disks that cannot lock, set "
                "HDF5_USE_FILE_LOCKING=FALSE)"
            ) from error
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            raise OSError("the file is empty") from error
        kind = kind_of(path) if os.path.isfile(path) and os.access(path, os.R_OK) else None
        if kind is not None:
            raise BadInput(f"{path}: not an HDF5 file but {kind}") from error
        raise


def content_of(path: PathLike) -> str | None:
    """What an HDF5 file holds: one of `CONTENTS`; None where it is none of these, or no HDF5 file."""
    try:
        if not os.path.isfile(path) or not h5py.is_hdf5(os.fspath(path)):
            return None
        with h5py.File(os.fspath(path), "r") as root:
            return content_of_group(root)
    except OSError:  # whoever opens it says what is wrong
        return None


def content_of_group(root: Any) -> str | None:
    """What an open file or store holds: one of `CONTENTS`, or None."""
    held = set(names(root))
    in_hdf5 = isinstance(root, h5py.Group)
    tenx = in_hdf5 and any(isinstance(root.get(name), h5py.Group) and "barcodes" in root[name] for name in held)
    found = {
        "mudata": "mod" in held,
        "loom": held >= {"row_attrs", "col_attrs"},
        "seurat": held >= {"assays", "meta.data"} or held >= {"assays", "active.ident"},
        "anndata": held >= {"obs", "var"},
        "10x": tenx,
    }
    return next((name for name, is_so in found.items() if is_so), None)


def open_h5ad(path: PathLike) -> Any:
    """Open an h5ad file for reading: an h5py.File, or what looks like one where anndata before 0.7 wrote the file.

    Raises
    ------
    OSError
        As h5py raises it.
    BadInput
        When obs or var cannot be read because of a filter that is missing here.
    """
    root = open_hdf5(path)
    try:
        if not is_old(root):
            return root
        for key in TABLES:
            check_filters(str(path), root.get(key))
        return Renewed(root)
    except BaseException:
        root.close()
        raise


def check_filters(name: str, element: Any) -> None:
    """Refuse an element with an array compressed by a filter that is not there.

    Parameters
    ----------
    name : str
        File and element, for messages.
    element : object
        A group or array; whatever is not of HDF5 passes.

    Raises
    ------
    BadInput
        Naming the array, the filter, and the package that brings it.
    """
    for array in _arrays(element):
        created = array.id.get_create_plist()
        for number in range(created.get_nfilters()):
            code, _, _, label = created.get_filter(number)
            if code >= FIRST_OF_PLUGINS and not h5py.h5z.filter_avail(code):
                raise BadInput(f"{name}: {_missing(array.name, code, label.decode(errors='replace'))}")


def _arrays(element: Any) -> Iterator[h5py.Dataset]:
    """The arrays of HDF5 in an element."""
    if isinstance(element, h5py.Dataset):
        yield element
    elif isinstance(element, h5py.Group):
        found: list[h5py.Dataset] = []
        element.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        yield from found


def _missing(array: str, code: int, label: str) -> str:
    """What is missing, and the way on."""
    found = f"{array.lstrip('/')} is compressed with {PLUGINS.get(code, label or 'a plugin')} (HDF5 filter {code})"
    if code in PLUGINS:
        return f"{found}, which needs hdf5plugin: install it (pip install hdf5plugin, or the extra `hdf5`)"
    return f"{found}, which is not installed here; install its plugin, or write the file with gzip"
