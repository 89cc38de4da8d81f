"""Two shapes of parallel work: a stream in order, and a sum in any order."""

import functools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import dask


def ordered_map(function, items):
    """Results of `function` in the order of `items`, made by one thread a core, a few items ahead.

    Items are drawn in the calling thread and only as they are needed, so that reading and writing stay sequential and
    memory stays at a few items; dask would draw them all first.
    """
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > workers + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def reduce_items(function, items, merge):
    """`merge` over `function(item)` of all items, by dask in threads, in a tree of four.

    Sums over independent parts of a store: dask drops each part's sums as soon as they are merged, so memory stays at a
    few of them however many parts there are.
    """
    part = dask.delayed(function, pure=False)  # not pure: hashing the function's arrays would cost more than the sums
    merged = dask.delayed(lambda sums: functools.reduce(merge, sums), pure=False)
    level = [part(item) for item in items]
    while len(level) > 1:
        level = [merged(level[i : i + 4]) for i in range(0, len(level), 4)]
    return level[0].compute(scheduler="threads")
