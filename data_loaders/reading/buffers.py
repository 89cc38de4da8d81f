"""Large result arrays, used again when nobody holds them any more.

Memory fresh from the system costs a page fault and a zeroing per page, a fifth of the time of a read or more. A buffer
counts as free when the pool has the only reference to it: batches, slices of them and torch tensors made from them all
hold one.
"""

import sys
import threading

import numpy as np
import numpy.typing as npt

from data_loaders.types import Array

KEEP = 4  # buffers, of the two arrays of two windows
SMALLEST = 1 << 20  # bytes; smaller arrays come from the allocator, which recycles them itself


class Buffers:
    """A pool of byte buffers. About `keep` are kept; more are handed out if more are held at once."""

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._buffers: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def empty(self, n: int, dtype: npt.DTypeLike) -> Array:
        """An uninitialised array (n,)."""
        dtype = np.dtype(dtype)
        size = int(n) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(n, dtype)
        with self._lock:
            buffer = self._find(size)
            if buffer is None:
                if len(self._buffers) >= self._keep:  # those that are free are too small
                    self._buffers = [held for i, held in enumerate(self._buffers) if self._is_held(i)][1 - self._keep :]
                buffer = np.empty(size + size // 16, np.uint8)  # windows differ a little in size
                self._buffers.append(buffer)
            return buffer[:size].view(dtype)

    def _find(self, size: int) -> npt.NDArray[np.uint8] | None:
        for i in range(len(self._buffers)):
            if len(self._buffers[i]) >= size and not self._is_held(i):
                return self._buffers[i]
        return None

    def _is_held(self, i: int) -> bool:
        return sys.getrefcount(self._buffers[i]) > 2  # the list's and this call's
