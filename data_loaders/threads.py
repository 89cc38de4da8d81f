"""The pools of threads that read, decode and densify. Made on first use, and anew in a forked child."""

import os
from concurrent.futures import ThreadPoolExecutor


def cores():
    """Cores for this process: those it may use, shared among the ranks that torchrun or Lightning started here."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, usable // max(int(ranks), 1)) if ranks.isdigit() else usable


CORES = cores()
_pools = {}  # (purpose, threads) -> pool


def run_all(function, tasks, threads, purpose="read"):
    """Call `function(*task)` for every task on that many threads; the first error is raised when all have ended.

    Each purpose has its own pool: what the consumer waits for must not queue behind what is read ahead.
    """
    if threads == 1 or len(tasks) == 1:
        for task in tasks:
            function(*task)
        return
    if (purpose, threads) not in _pools:
        _pools[purpose, threads] = ThreadPoolExecutor(threads, f"data-loaders-{purpose}")
    futures = [_pools[purpose, threads].submit(function, *task) for task in tasks]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
