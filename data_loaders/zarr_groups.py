"""Zarr groups opened and listed even where something in them, that nobody asks for, cannot be read."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.core.sync import sync

from data_loaders.errors import unknown_kind


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
    Exception
        What zarr raised at first, where the store cannot be opened either way.
    """
    try:
        return zarr.open(where, mode="r")
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
