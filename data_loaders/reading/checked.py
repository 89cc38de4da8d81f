"""A Zarr store whose files are compared with its manifest as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import ByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import WrapperStore

from data_loaders.errors import BadInput
from data_loaders.manifest import TAIL, Manifest, read_manifest
from data_loaders.storage import is_remote, place, shown
from data_loaders.zarr_groups import open_group

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

    from data_loaders.types import PathLike


class CheckedStore(WrapperStore[Store]):
    """A store that raises `BadInput` for a file that is not the one in its manifest.

    A file read whole is compared whole; one read in parts by its end, once: chunks have checksums of their own.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        super().__init__(store)
        self.manifest = manifest
        self._seen: set[str] = set()

    def __str__(self) -> str:
        return self.manifest.name

    def _with_store(self, store: Store) -> CheckedStore:
        return type(self)(store, self.manifest)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of a file, or of a part of it; None when there is none and none is expected."""
        prototype = prototype or default_buffer_prototype()
        found = await self._store.get(key, prototype, byte_range)
        if key not in self.manifest:
            if found is not None:
                self.manifest.check_stray(key)
            return found
        if byte_range is None:
            self.manifest.check_whole(key, None if found is None else found.to_bytes())
        elif found is None:
            self.manifest.check_size(key, None)
        elif key not in self._seen:
            self.manifest.check_size(key, await self._store.getsize(key))
            tail = await self._store.get(key, prototype, SuffixByteRequest(TAIL))
            self.manifest.check_tail(key, b"" if tail is None else tail.to_bytes())
            self._seen.add(key)
        return found


def checked(root: zarr.Group, name: str) -> tuple[zarr.Group, Manifest | None, bool]:
    """A store that was opened, its files checked from now on where it has a manifest.

    Returns
    -------
    root : zarr.Group
    manifest : Manifest or None
    is_believed : bool
        See `data_loaders.manifest.read_manifest`.

    Raises
    ------
    BadInput
        When the manifest or the metadata of the root are damaged.
    """
    manifest, is_believed = read_manifest(root, name)
    if manifest is None:
        return root, None, is_believed
    store: Any = CheckedStore(root.store, manifest)
    return zarr.open_group(store, mode="r", use_consolidated=False), manifest, True


def open_checked(path: PathLike) -> tuple[zarr.Group, Manifest | None, bool]:
    """As `checked`, of the store in a folder or at an address, opened for reading.

    Raises
    ------
    BadInput
        Also when there is a single array, or a pipe in place of a file.
    Exception
        What zarr raises where there is no store.
    """
    root = open_group(place(path).zarr_store() if is_remote(path) else path)
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{shown(path)}: a single Zarr array; expected an AnnData-Zarr store")
    return checked(root, shown(path))
