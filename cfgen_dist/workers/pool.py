"""A pure function of (state, item) mapped over workers: threads of this process, or Ray actors that may die.

Whatever the pool, each worker builds its state once, holds at most two items, and computes with one thread of torch and
one of numpy's BLAS: matrix products round differently for other numbers of threads, and results must not depend on how
they were made.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from threadpoolctl import threadpool_limits

from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.threads import ONE_THREAD, Item, Result, State, check_device, map_threads
from data_loaders.errors import BadInput


class Pool(Protocol):
    """Workers, ready for work; see `cfgen_dist.workers.threads.map_threads`."""

    def __call__(
        self, function: Callable[[State, Item], Result], items: Iterable[Item], setup: Callable[[], State]
    ) -> Iterator[tuple[Item, Result]]:
        """Yield (item, result) as results come, in any order."""


@contextmanager
def open_pool(who: Workers, device: str = "cpu") -> Iterator[Pool]:
    """Workers for as long as the block lasts: yields map(function, items, setup), see `map_threads`.

    Parameters
    ----------
    who : Workers
    device : {"cpu", "cuda"}
        What they compute on; on "cuda" each actor takes a share of a GPU.

    Raises
    ------
    BadInput
        Fewer than one worker, no Ray, no cluster at that address, no GPU.
    """
    from cfgen_dist.workers.actors import open_actors
    from cfgen_dist.workers.cluster import connect, is_local

    if who.ray is None or is_local(who.ray):
        check_device(device)
    if who.workers is not None and who.workers < 1:
        raise BadInput(f"workers is {who.workers}, expected at least 1")
    with threadpool_limits(**ONE_THREAD):  # of this process too, which adds up what workers return
        if who.ray is None:
            yield partial(map_threads, workers=who.workers)
            return
        with connect(who.ray, who.workers), open_actors(who.workers, device) as map_actors:
            yield map_actors
