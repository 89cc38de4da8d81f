"""Byte ranges of the files of a store, read by many threads at once: any source of bytes, and the local disk."""

import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from data_loaders.errors import BadInput
from data_loaders.parallel import CORES
from data_loaders.types import PathLike

OPEN_BINARY = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # the last one is of Windows
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
        Whether `expect` does anything.
    """

    run_bytes: int
    threads: int
    fetches_ahead: bool

    def size(self, key: str) -> int:
        """Bytes in a file; FileNotFoundError when there is none."""

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends. FileNotFoundError when there is none."""

    def expect(self, key: str, start: int, stop: int) -> None:
        """Announce that bytes [start, stop) of a file will be read."""


class LocalBytes:
    """Files under a folder, read by position.

    Parameters
    ----------
    root : path-like

    Notes
    -----
    Files stay open, so a store that is replaced by a rename is read on in its old state; a file written to after the
    source was made is an error.
    """

    run_bytes = 1 << 20  # decoded bytes of one request: a few cache-sized chunks
    threads = CORES
    fetches_ahead = hasattr(os, "posix_fadvise")

    def __init__(self, root: PathLike) -> None:
        self.name = str(root)
        self._root = Path(root)
        self._opened = time.time_ns()
        self._files: OrderedDict[str, _OpenFile] = (
            OrderedDict()
        )  # key -> (descriptor, size), the least recently used first
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
        if file.modified > self._opened:
            raise BadInput(
                f"{self._root / key}: written to after the store was opened; open it again when it is finished"
            )
        with self._lock:
            file = self._files.setdefault(key, file)  # another thread may have been first
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file


class _OpenFile:
    """A file descriptor that closes with the last thread that holds it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, OPEN_BINARY)
        self.lock = threading.Lock()  # of the place in the file, where there is no reading by position
        status = os.fstat(self.descriptor)
        self.size, self.modified = status.st_size, status.st_mtime_ns

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
