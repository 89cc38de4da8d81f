"""Objects under a prefix as a Zarr store; what goes wrong is one line that holds no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore

from data_loaders.storage.opened import answered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class ToldStore(ObjectStore[Any]):
    """Objects under a prefix, for Zarr; what goes wrong is one line of `BadInput`.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    read_only : bool
    """

    name = ""  # how messages call it; set by who opens it

    def with_read_only(self, read_only: bool = False) -> ToldStore:
        """The same store, to be read or to be written."""
        other = type(self)(self.store, read_only=read_only)
        other.name = self.name
        return other

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """An object, or a range of it; None when there is none."""
        with answered(f"{self.name}/{key}"):
            return await super().get(key, prototype, byte_range)

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
