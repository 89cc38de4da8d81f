"""Keep the memory of a training step in the process, and give that of a stage back.

On a CPU every step frees its matrices of cells x genes, some 80 MB each, and asks for the same again. glibc hands
blocks of that size back to the kernel at once and gets them back page by page, zeroed: two fifths of a step's time at
20,000 genes. Keeping them costs a fifth more memory (benchmarks/training.py).
"""

import ctypes
import gc
from typing import Any

# https://man7.org/linux/man-pages/man3/mallopt.3.html. Threads of one arena, since others cannot grow beyond 64 MB:
# what does not fit in them goes to the kernel again.
OPTIONS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}
# The same for a process that is still to start: Ray's workers train in a thread, whose arena is chosen by then.
ENVIRONMENT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**63), "MALLOC_ARENA_MAX": "1"}


def keep_freed_memory() -> None:
    """Do so in this process from now on; C libraries other than glibc are left as they are."""
    mallopt = _of_libc("mallopt")
    if mallopt is not None:
        for option, value in OPTIONS.values():
            mallopt(option, value)


def give_memory_back() -> None:
    """Collect what a stage has left in cycles of objects, its windows of cells above all, and free it for others."""
    gc.collect()
    malloc_trim = _of_libc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_libc(name: str) -> Any:
    """A function of the C library that this process uses; None where there is none or it cannot be asked (Windows)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
