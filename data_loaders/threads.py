"""The pool of threads that read and decode. One a process, made on first use, and anew in a forked child."""

import os
from concurrent.futures import ThreadPoolExecutor

_pools = {}  # threads -> pool


def run_all(function, tasks, threads):
    """Call `function(*task)` for every task on that many threads; the first error is raised when all have ended."""
    if threads == 1 or len(tasks) == 1:
        for task in tasks:
            function(*task)
        return
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, "data-loaders")
    futures = [_pools[threads].submit(function, *task) for task in tasks]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
