"""Byte ranges of the files of a store, read by many threads at once: any source of bytes, and the local disk."""

import os
import stat
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from data_loaders.errors import BadInput
from data_loaders.manifest import Manifest
from data_loaders.parallel import CORES
from data_loaders.types import PathLike

# the last one is of Windows; a pipe without a writer is not waited for
OPEN_BINARY = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
ROOT_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")  # of a store
OPEN_FILES = 256  # a sharded store of 100 million cells has about as many


class ByteSource(Protocol):
    """The files of a store.

    Attributes
    ----------
    run_bytes : int
        Decoded bytes that one request should give.
    threads : int
        Requests at once.
    fetches_ahead : bool
        Whether `expect` costs nothing: it is called for all that is read, just before.
    is_far : bool
        Whether requests take long: then `expect` is called for what is read next, while other bytes are decoded.
    manifest : Manifest or None
        What the files should be, where the store says so.
    """

    run_bytes: int
    threads: int
    fetches_ahead: bool
    is_far: bool
    manifest: Manifest | None

    def size(self, key: str) -> int:
        """Bytes in a file; FileNotFoundError when there is none."""

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends. FileNotFoundError when there is none."""

    def expect(self, key: str, start: int, stop: int) -> None:
        """Announce that bytes [start, stop) of a file will be read."""

    def drop_expected(self) -> None:
        """What was announced and not read will not be read."""

    def check_unchanged(self, path: str) -> None:
        """Raise `BadInput` when the store is another one than was opened, or what is at `path` was written to since."""


class LocalBytes:
    """Files under a folder, read by position.

    Parameters
    ----------
    root : path-like

    Notes
    -----
    Files stay open, so a store that is replaced by a rename is read on in its old state. A file that has to be opened
    again must be the one that it was.

    Where a store has a manifest, who reads a file compares it. Where it has none, a folder that is another one than
    when the source was made is an error, or one whose metadata are; and so is a file written to since then, unless the
    clock of the disk cannot be compared with this one: a time that is still to come says nothing.
    """

    manifest: Manifest | None = None
    run_bytes = 1 << 20  # decoded bytes of one request: a few cache-sized chunks
    threads = CORES
    fetches_ahead = hasattr(os, "posix_fadvise")
    is_far = False

    def __init__(self, root: PathLike) -> None:
        self.name = str(root)
        self._root = Path(root)
        self._opened, self._identity = time.time_ns(), self._about_root()
        self._has_same_clock = all(modified <= self._opened for _, _, _, modified in self._identity)
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()  # the least recently used first
        self._seen: dict[str, _Facts] = {}  # of files that were open
        self._lock = threading.Lock()

    def size(self, key: str) -> int:
        """Bytes in a file.

        Raises
        ------
        FileNotFoundError
        """
        return self._file(key).size

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends.

        Raises
        ------
        FileNotFoundError
        """
        file = self._file(key)  # held until the read is done: it closes when nobody holds it
        return read_at(file, stop - start, start)

    def expect(self, key: str, start: int, stop: int) -> None:
        """Have the system fetch bytes [start, stop) of a file while others are decoded; where it can be asked to."""
        if self.fetches_ahead:
            os.posix_fadvise(self._file(key).descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def drop_expected(self) -> None:
        """Nothing is kept here; the system drops what it likes."""

    def forget(self) -> None:
        """Close all files; each is opened and looked at again when it is read."""
        with self._lock:
            self._files.clear()

    def _file(self, key: str) -> "_OpenFile":
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
                return file
        file = _OpenFile(self._root / key)
        if self.manifest is None and (self._is_new(file.facts) or self._about_root() != self._identity):
            raise self._changed(key)
        with self._lock:
            if self._seen.setdefault(key, file.facts) != file.facts:
                raise self._changed(key)
            file = self._files.setdefault(key, file)  # another thread may have been first
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file

    def check_unchanged(self, path: str) -> None:
        """Raise `BadInput` when the store is another one than was opened, or what is at `path` was written to since.

        Of a store with a manifest nothing is looked at: its files are compared as they are read.
        """
        if self.manifest is not None:
            return
        if self._about_root() != self._identity:
            raise self._changed(path)
        for file in sorted((self._root / path).rglob("*")):
            if self._is_new(_facts(file.stat())):
                raise self._changed(file.relative_to(self._root).as_posix())

    def _is_new(self, facts: "_Facts") -> bool:
        return self._has_same_clock and self._opened < facts[3] <= time.time_ns()

    def _changed(self, key: str) -> BadInput:
        return BadInput(f"{self._root / key}: written to after the store was opened; open it again when it is finished")

    def _about_root(self) -> list["_Facts"]:
        """What tells the folder, and the store in it, from one that takes its name; no times of the folder itself."""
        found = []
        for path in (self._root, *(self._root / name for name in ROOT_FILES)):
            with suppress(OSError):
                facts = _facts(path.stat())
                found.append(facts if path != self._root else (*facts[:2], 0, 0))
        return found


_Facts: TypeAlias = tuple[int, int, int, int]  # device, number, bytes, time of the last change in ns


def _facts(status: os.stat_result) -> _Facts:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _OpenFile:
    """A file descriptor that closes with the last thread that holds it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, OPEN_BINARY)
        self.lock = threading.Lock()  # of the place in the file, where there is no reading by position
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{path}: a pipe, a socket or a device; expected a regular file")
        self.size, self.facts = status.st_size, _facts(status)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _read_by_position(file: _OpenFile, size: int, start: int) -> bytes:
    return os.pread(file.descriptor, size, start)


def _seek_and_read(file: _OpenFile, size: int, start: int) -> bytes:
    """As `_read_by_position` on systems without it, Windows above all: one thread a file at a time."""
    with file.lock:
        os.lseek(file.descriptor, start, os.SEEK_SET)
        parts = []
        while size > 0 and (part := os.read(file.descriptor, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


read_at = _read_by_position if hasattr(os, "pread") else _seek_and_read
