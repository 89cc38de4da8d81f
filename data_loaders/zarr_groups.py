"""Zarr groups opened and listed even where something in them, that nobody asks for, cannot be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore

from data_loaders.errors import BadInput, unknown_kind

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class RegularFiles(LocalStore):
    """A folder of which regular files alone are read: whoever reads a pipe without a writer waits for ever."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of a file, or of a part of it; None when there is none."""
        path = self.root / key
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadInput(f"{path}: a pipe, a socket or a device; expected a regular file")
        return await super().get(key, prototype, byte_range)


def open_group(where: Any) -> zarr.Group | zarr.Array[Any]:
    """Open a Zarr store for reading.

    Parameters
    ----------
    where : path, str or zarr store
        Its consolidated metadata are used where this zarr understands all of them: one array in `uns` of a data type
        or codec that it does not know makes the whole copy unreadable. Then each element is opened by itself.

    Returns
    -------
    zarr.Group or zarr.Array

    Raises
    ------
    BadInput
        One of the files is a pipe or a device.
    Exception
        What zarr raised at first, where the store cannot be opened either way.
    """
    if isinstance(where, str | os.PathLike) and Path(where).is_dir():
        where = RegularFiles(Path(where), read_only=True)
    try:
        return zarr.open(where, mode="r")
    except BadInput:
        raise
    except Exception as error:  # of every kind: metadata of others
        try:
            return zarr.open_group(where, mode="r", use_consolidated=False)
        except Exception:
            raise error from None


def names(group: Any) -> list[str]:
    """Names of what is in a group of a Zarr store or HDF5 file, without opening any of it; a missing group has none."""
    if group is None:
        return []
    if not isinstance(group, zarr.Group):
        return [str(name) for name in group]
    if group.metadata.consolidated_metadata is not None:
        return [str(name) for name in group]
    return sorted(name for name in sync(_listed(group)) if not name.startswith(".") and name != "zarr.json")


def is_unknown(group: Any, name: str) -> bool:
    """Whether an element is there, but of a data type or codec that the installed zarr does not know."""
    if not isinstance(group, zarr.Group):
        return False
    try:
        group[name]
    except KeyError:
        return False
    except Exception as error:
        return unknown_kind(error) is not None
    return False


async def _listed(group: zarr.Group) -> list[str]:
    """The entries of a group's folder."""
    store, path = group.store_path.store, group.store_path.path
    return [name.rstrip("/") async for name in store.list_dir(path)]
