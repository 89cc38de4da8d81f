"""Objects under a prefix as a Zarr store; what goes wrong is one line that holds no secret."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype
from zarr.storage import ObjectStore

from data_loaders.storage.opened import answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
MOST = 512  # fetched at once


class ToldStore(ObjectStore[Any]):
    """Objects under a prefix, for Zarr; what goes wrong is one line of `BadInput`.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    read_only : bool
    """

    name = ""  # how messages call it; set by who opens it

    def __init__(self, store: Any, *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._metadata: dict[str, Any] = {}  # of a store that is only read: asked for once, absent ones too

    def with_read_only(self, read_only: bool = False) -> ToldStore:
        """The same store, to be read or to be written."""
        other = type(self)(self.store, read_only=read_only)
        other.name = self.name
        return other

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """An object, or a range of it; None when there is none."""
        is_kept = self.read_only and byte_range is None and key.rpartition("/")[2] in METADATA
        if is_kept and key in self._metadata:
            return self._metadata[key]
        with answered(f"{self.name}/{key}"):
            found = await super().get(key, prototype, byte_range)
        if is_kept:
            self._metadata[key] = found
        return found

    async def fetch(self, keys: Iterable[str]) -> None:
        """Ask for metadata that will be read, all at once."""
        prototype = default_buffer_prototype()
        await asyncio.gather(*(self.get(key, prototype) for key in list(keys)[:MOST]))

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Ranges of objects."""
        with answered(self.name):
            return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key: str) -> bool:
        """Whether there is an object of that name."""
        with answered(f"{self.name}/{key}"):
            return await super().exists(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Names under a prefix."""
        with answered(f"{self.name}/{prefix}", "listed"):
            async for name in super().list_dir(prefix):
                yield name

    async def set(self, key: str, value: Any) -> None:
        """Write an object."""
        with answered(f"{self.name}/{key}", "written"):
            await super().set(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        with answered(f"{self.name}/{key}", "removed"):
            await super().delete(key)
