"""A pure function of (state, item) mapped over workers: threads of this process, or Ray actors that may die.

Whatever the pool, each worker builds its state once, holds at most two items, and computes with one thread of torch and
one of numpy's BLAS: matrix products round differently for other numbers of threads, and results must not depend on how
they were made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from threadpoolctl import threadpool_limits

from cfgen_dist.workers.gpus import read_share, share_by_memory
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.threads import ONE_THREAD, Pool, check_device, map_threads
from data_loaders.errors import BadInput


@contextmanager
def open_pool(who: Workers, device: str = "cpu", gpu_bytes: int = 0) -> Iterator[Pool]:
    """Workers for as long as the block lasts: yields map(function, items, setup), see `map_threads`.

    Parameters
    ----------
    who : Workers
    device : {"cpu", "cuda"}
        What they compute on; on "cuda" each actor takes a GPU, or the share of one that `who` says.
    gpu_bytes : int
        What one actor holds on its GPU, for the share "auto".

    Raises
    ------
    BadInput
        Fewer than one worker, no Ray, no cluster at that address, no GPU, a share of a GPU that cannot be.
    """
    from cfgen_dist.workers.actors import open_actors
    from cfgen_dist.workers.cluster import connect, is_local

    share = read_share(who.gpus_per_worker)
    if who.gpus_per_worker is not None and (who.ray is None or device != "cuda"):
        raise BadInput(
            f"`gpus_per_worker` is {who.gpus_per_worker}, but only workers of `ray` with `device='cuda'` take GPUs"
        )
    if who.ray is None or is_local(who.ray):
        check_device(device)
    if who.workers is not None and who.workers < 1:
        raise BadInput(f"workers is {who.workers}, expected at least 1")
    with threadpool_limits(**ONE_THREAD):  # of this process too, which adds up what workers return
        if who.ray is None:
            yield partial(map_threads, workers=who.workers)
            return

        def gpus(resources: Mapping[str, float]) -> float:
            return share_by_memory(gpu_bytes, resources) if share is None else share

        with connect(who.ray, who.workers), open_actors(who.workers, gpus if device == "cuda" else None) as map_actors:
            yield map_actors
