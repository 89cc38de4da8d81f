"""Byte ranges of the files of a store, from many threads at once."""

import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

from data_loaders.errors import BadInput
from data_loaders.parallel import CORES

OPEN_FILES = 256  # a sharded store of 100 million cells has about as many


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

    def __init__(self, root):
        self.name = str(root)
        self._root = Path(root)
        self._opened = time.time_ns()
        self._files = OrderedDict()  # key -> (descriptor, size), the least recently used first
        self._lock = threading.Lock()

    def size(self, key):
        """Bytes in a file.

        Raises
        ------
        FileNotFoundError
        """
        return self._file(key).size

    def read(self, key, start, stop):
        """Bytes [start, stop) of a file; fewer where it ends.

        Raises
        ------
        FileNotFoundError
        """
        file = self._file(key)  # held until the read is done: it closes when nobody holds it
        return os.pread(file.descriptor, stop - start, start)

    def expect(self, key, start, stop):
        """Have the system fetch bytes [start, stop) of a file while others are decoded; where it can be asked to."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file(key).descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def _file(self, key):
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

    def __init__(self, path):
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        status = os.fstat(self.descriptor)
        self.size, self.modified = status.st_size, status.st_mtime_ns

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
