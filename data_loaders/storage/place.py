"""`place`: a path on a disk or an address in a bucket, with the same few verbs.

A place is the name of a file or folder; a folder of a bucket is all objects whose keys begin with its name and a slash.
Nothing is looked at until a verb is used. What is written appears whole or not at all. `write_new` and `replace` are
conditional puts, decided by the disk or the bucket and not by who asks: of two that write, one gets False.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from data_loaders.errors import BadInput
from data_loaders.storage.address import is_remote, on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from data_loaders.types import PathLike


class Versioned(NamedTuple):
    """What is in a file, and what `replace` needs to put something in its place."""

    content: bytes
    version: str
    modified: float  # seconds since 1970, by the clock of the disk or the bucket


@runtime_checkable
class Place(Protocol):
    """A file or folder, on a disk or in a bucket. `str()` is its path or whole address."""

    is_remote: bool

    @property
    def name(self) -> str:
        """Its last step."""

    @property
    def shown(self) -> str:
        """For messages and records: an address without password and query."""

    def __truediv__(self, step: str) -> Place:
        """What is in it under a name, or under several with slashes."""

    def beside(self, name: str) -> Place:
        """What has that name in the same folder."""

    def read(self) -> bytes:
        """All bytes of a file; FileNotFoundError where there is none."""

    def pieces(self) -> Iterator[bytes]:
        """The bytes of a file one piece after the other, for files of any size."""

    def read_versioned(self) -> Versioned | None:
        """All bytes of a file and its version; None where there is none."""

    def write(self, content: bytes | memoryview) -> None:
        """Write a file, whole or not at all, in place of what is there."""

    def write_new(self, content: bytes) -> bool:
        """Write a file where none is; False when one is there."""

    def replace(self, content: bytes, version: str) -> bool:
        """Write a file in place of that version of it; False when it is another by now, or gone."""

    def is_file(self) -> bool:
        """Whether there is a file."""

    def is_folder(self) -> bool:
        """Whether there is a folder; in a bucket, something in it."""

    def exists(self) -> bool:
        """Whether there is a file or a folder."""

    def size(self) -> int:
        """Bytes of a file; FileNotFoundError where there is none."""

    def files(self) -> list[str]:
        """All files of a folder and the folders in it, by their names from here with slashes, sorted."""

    def sizes(self) -> dict[str, int]:
        """As `files`, with the bytes of each."""

    def names(self) -> list[str]:
        """Files and folders directly in a folder, sorted; none where there is no folder."""

    def remove(self) -> None:
        """Remove a file; nothing happens where there is none."""

    def remove_tree(self) -> None:
        """Remove a file or a folder with all that is in it; nothing happens where there is none."""

    def download(self, local: PathLike) -> Path:
        """Copy a file or a folder to a path on a disk where nothing is."""

    def upload(self, local: PathLike, new: bool = False) -> None:
        """Copy a file or a folder from a disk to here; `new`: only where nothing is, else `BadInput`.

        Of a folder, a file `zarr.json` at its top is written last.
        """

    def local(self) -> AbstractContextManager[Path]:
        """With this: a path on a disk to read it at; of an address a copy, removed at the end."""

    def zarr_store(self, read_only: bool = True) -> Any:
        """The zarr store of the folder."""


def place(path: PathLike | Place, storage: Mapping[str, Any] | None = None) -> Place:
    """The place at a path or an address; a place is given back as it is.

    Parameters
    ----------
    path : path-like, str or Place
        As `runs/a` or `s3://bucket/runs/a`.
    storage : dict, optional
        Options of obstore that overrule those of `use_storage` and of the environment.

    Raises
    ------
    BadInput
        An address of a kind that is not known, or without a bucket.
    """
    if not isinstance(path, str) and isinstance(path, Place):
        return path
    if is_remote(path):
        from data_loaders.storage.bucket import BucketPlace

        return BucketPlace.at(path, storage)
    from data_loaders.storage.disk import DiskPlace

    return DiskPlace(on_disk(path))


@contextmanager
def local_copy(path: PathLike, storage: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """With this: a path on a disk to read a file or folder at, which may be an address.

    A copy of what is at an address is removed at the end; `BadInput` that names the copy names the address instead.

    Raises
    ------
    FileNotFoundError
        There is nothing at an address.
    """
    found = place(path, storage)
    with found.local() as local:
        try:
            yield local
        except BadInput as error:
            if not found.is_remote:
                raise
            raise BadInput(str(error).replace(str(local), found.shown)) from error
