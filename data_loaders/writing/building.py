"""A store that is being made: on a disk beside its place, in a bucket in its place but without what makes it a store.

A bucket has no rename. There the files of a store are put where they belong, all but the metadata of the root: without
them nothing opens it. They are held here, and put last, where none are (`Building.finish`). An object beside the store,
`.NAME.partial`, says that what is there is not finished; the next command that makes the store removes what a killed
one has left, and nothing that somebody else put there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.storage import LocalStore

from data_loaders.errors import BadInput
from data_loaders.files import begin_output, finish_output, refuse_existing
from data_loaders.manifest import ROOT, Facts, facts_of, facts_of_bytes, seal
from data_loaders.storage.address import is_remote
from data_loaders.storage.bucket import BucketPlace
from data_loaders.storage.place import Place
from data_loaders.storage.zarr_store import ToldStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from data_loaders.types import PathLike

NOTE = b'{"unfinished": true}'


class Building:
    """A store that is being made.

    Parameters
    ----------
    path : path-like
        Where it will be; must not exist.

    Attributes
    ----------
    root : zarr.Group
        Empty, to be written to.

    Raises
    ------
    BadInput
        When something is at `path` that is no leftover of a killed command.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = path
        self._folder: Path | None = None
        self._place: BucketPlace | None = None
        if is_remote(path):
            self._place = BucketPlace.at(path)
            check_new(path)
            self._note.write(NOTE)
            self._place.remove_tree()
            self._store: Any = BuildingStore(self._place)
        else:
            self._folder = begin_output(path)
            self._store = self._folder
        self.root = zarr.open_group(self._store, mode="w", zarr_format=3)

    def finish(self) -> None:
        """Note all files in the manifest, and let the store appear."""
        if self._place is None:
            assert self._folder is not None
            folder = self._folder
            seal(self.root, lambda: facts_of(folder))
            finish_output(folder, self.path)
            return
        store: BuildingStore = self._store
        seal(self.root, lambda: store.facts)
        if not (self._place / ROOT).write_new(store.root):
            raise BadInput(f"{self._place.shown}: exists already; another command has made it meanwhile")
        self._note.remove()

    def discard(self) -> None:
        """Remove what was written so far."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        elif self._place is not None and not (self._place / ROOT).is_file():
            self._place.remove_tree()
            self._note.remove()

    @property
    def _note(self) -> Place:
        assert self._place is not None
        return note_of(self._place)


def note_of(place: Place) -> Place:
    """The object that says that a store is not finished."""
    return place.beside(f".{place.name}.partial")


def check_new(path: PathLike) -> None:
    """Raise `BadInput` when something is at a path or address that is no leftover of a killed command."""
    if not is_remote(path):
        refuse_existing(path)
        return
    place = BucketPlace.at(path)
    place.check_writable()
    if (place / ROOT).is_file() or place.is_file() or (place.is_folder() and not note_of(place).is_file()):
        raise BadInput(f"{place.shown}: exists already; expected an address where nothing is")


class BuildingStore(ToldStore):
    """The objects of a store that is being made; the metadata of its root are held back.

    Parameters
    ----------
    place : BucketPlace

    Attributes
    ----------
    root : bytes
        The metadata of the root.
    facts : dict
        Size and checksums of all files but these, see `data_loaders.manifest.Manifest`.
    """

    def __init__(self, place: BucketPlace) -> None:
        super().__init__(place.zarr_store(read_only=False).store, read_only=False)
        self.name, self.place, self.root = place.shown, place, b""
        self._facts: Facts = {}

    @property
    def facts(self) -> Facts:
        """Size and checksums of all files."""
        return self._facts | ({ROOT: facts_of_bytes(ROOT, self.root)} if self.root else {})

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """An object, or a range of it."""
        if key == ROOT:
            return prototype.buffer.from_bytes(self.root) if self.root else None
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is an object of that name."""
        return bool(self.root) if key == ROOT else await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        """Write an object."""
        if key == ROOT:
            self.root = value.to_bytes()
            return
        await super().set(key, value)
        self._facts[key] = facts_of_bytes(key, value.as_numpy_array().view("u1").data)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write an object where none is; nobody else writes here."""
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        if key == ROOT:
            self.root = b""
            return
        await super().delete(key)
        self._facts.pop(key, None)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects under a prefix."""
        if prefix in ("", "/"):
            self.root = b""
        start = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        for key in [key for key in self._facts if key.startswith(start)]:
            await self.delete(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Names under a prefix."""
        if not prefix.strip("/") and self.root:
            yield ROOT
        async for name in super().list_dir(prefix):
            yield name

    def move(self, key: str, new: str) -> None:
        """Rename all objects under a prefix: copies within the bucket."""
        import obstore

        for old in sorted(self._facts):
            if old.startswith(f"{key}/"):
                name = f"{new}/{old.removeprefix(f'{key}/')}"
                obstore.rename(self.store, old, name)
                self._facts[name] = self._facts.pop(old)


def move(group: zarr.Group, name: str, new: str) -> None:
    """Rename what is under a name in a group."""
    store = group.store
    if isinstance(store, BuildingStore):
        prefix = f"{group.path}/" if group.path else ""
        store.move(f"{prefix}{name}", f"{prefix}{new}")
    elif isinstance(store, LocalStore):
        folder = store.root / group.path
        (folder / name).rename(folder / new)
    else:
        raise TypeError(f"{store}: expected a group of a store that is being made")
