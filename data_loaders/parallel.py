"""Three shapes of parallel work: a stream in order, a sum in any order, and tasks that all must end."""

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_pools: dict[
    tuple[str, int], ThreadPoolExecutor
] = {}  # (purpose, threads) -> pool; made on first use, and anew in a forked child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Results of `function` in the order of `items`, made by one thread a core or by `workers`, a few items ahead.

    Items are drawn in the calling thread and only as they are needed, so that reading and writing stay sequential and
    memory stays at a few items; dask would draw them all first.
    """
    workers = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Result]] = deque()
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


def reduce_items(
    function: Callable[[Item], Result], items: Iterable[Item], merge: Callable[[Result, Result], Result]
) -> Result:
    """`merge` over `function(item)` of all items, by dask in threads, in a tree of four.

    Sums over independent parts of a store: dask drops each part's sums as soon as they are merged, so memory stays at a
    few of them however many parts there are.
    """
    import dask  # here: streams need none of it, and it takes a third of a second to import

    part = dask.delayed(function, pure=False)  # not pure: hashing the function's arrays would cost more than the sums
    merged = dask.delayed(lambda sums: functools.reduce(merge, sums), pure=False)
    level = [part(item) for item in items]
    while len(level) > 1:
        level = [merged(level[i : i + 4]) for i in range(0, len(level), 4)]
    total: Result = level[0].compute(scheduler="threads")
    return total


def cores() -> int:
    """Cores for this process: those it may use, shared among the ranks that torchrun or Lightning started here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, usable // max(int(ranks), 1)) if ranks.isdigit() else usable


CORES = cores()


def pool_of(purpose: str, threads: int) -> ThreadPoolExecutor:
    """The threads of a purpose, the same each time."""
    if (purpose, threads) not in _pools:
        _pools[purpose, threads] = ThreadPoolExecutor(threads, f"data-loaders-{purpose}")
    return _pools[purpose, threads]


def run_all(
    function: Callable[..., object], tasks: Sequence[tuple[Any, ...]], threads: int, purpose: str = "read"
) -> None:
    """Call `function(*task)` for every task on that many threads; the first error is raised when all have ended.

    Each purpose has its own pool: what the consumer waits for must not queue behind what is read ahead.
    """
    if threads == 1 or len(tasks) == 1:
        for task in tasks:
            function(*task)
        return
    futures = [pool_of(purpose, threads).submit(function, *task) for task in tasks]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
