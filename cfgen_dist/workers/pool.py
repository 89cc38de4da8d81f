"""A pure function of (state, item) mapped over workers: threads of this process, or Ray actors that may die.

Whatever the pool, each worker builds its state once, holds at most two items, and computes with one thread of torch and
one of numpy's BLAS: matrix products round differently for other numbers of threads, and results must not depend on how
they were made.
"""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial

import torch
from threadpoolctl import threadpool_limits

from data_loaders.errors import BadInput

ONE_THREAD = {"limits": 1, "user_api": "blas"}
WINDOW = 2  # items a worker holds: one in work, one waiting


@contextmanager
def open_pool(ray=None, workers=None, device="cpu"):
    """Workers for as long as the block lasts: yields map(function, items, setup), see `map_threads`.

    Parameters
    ----------
    ray : {None, "auto", "local"} or str
        None: threads of this process. Else as in `cfgen_dist.workers.cluster.connect`.
    workers : int, optional
        By default one for each core of this machine or of the Ray cluster.
    device : {"cpu", "cuda"}
        What workers compute on; on "cuda" each actor takes a share of a GPU.

    Raises
    ------
    BadInput
        Fewer than one worker, no Ray, no cluster at that address, no GPU.
    """
    from cfgen_dist.workers.cluster import connect, is_local, open_actors

    if ray is None or is_local(ray):
        check_device(device)
    if workers is not None and workers < 1:
        raise BadInput(f"workers is {workers}, expected at least 1")
    with threadpool_limits(**ONE_THREAD):  # of this process too, which adds up what workers return
        if ray is None:
            yield partial(map_threads, workers=workers)
            return
        with connect(ray, workers), open_actors(workers, device) as map_actors:
            yield map_actors


def check_device(device):
    """Raise `BadInput` for "cuda" where there is no GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device is cuda, but torch finds no GPU here; expected cpu")


def map_threads(function, items, setup, workers=None):
    """Yield (item, result) as results come, in any order, from threads of this process.

    torch, BLAS and the compiled kernels all let go of the interpreter, so threads are enough on one machine.

    Parameters
    ----------
    function : callable (state, item) -> result
        Pure, or harmless to repeat: the item of an actor that died is given to another. Results should be small.
    items : iterable
        Drawn only as workers become free.
    setup : callable () -> state
        Called once for all threads; in every actor before its first item.
    workers : int, optional
        By default as many as torch has threads.
    """
    before = torch.get_num_threads()
    workers = workers or before
    state, items, pending = setup(), iter(items), {}
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            try:
                while True:
                    while len(pending) < WINDOW * workers and (item := next(items, None)) is not None:
                        pending[executor.submit(function, state, item)] = item
                    if not pending:
                        return
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        yield pending.pop(future), future.result()
            finally:
                for future in pending:
                    future.cancel()
    finally:
        torch.set_num_threads(before)
