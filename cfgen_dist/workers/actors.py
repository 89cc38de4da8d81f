"""The workers of a Ray cluster: actors that are replaced when they die."""

import hashlib
import logging
import pickle
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from cfgen_dist.workers.threads import ONE_THREAD, WINDOW
from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")
INLINE = 64 << 10  # bytes that may travel with every item
GPU_SHARE = 0.125  # of an actor that computes on GPUs: each draws counts on its CPU most of the time
TRIES = 20  # of one item; an item that kills every worker must end the run some time


@contextmanager
def open_actors(workers=None, device="cpu"):
    """Actors of the cluster that is connected, for as long as the block lasts: yields map(function, items, setup).

    The map is `cfgen_dist.workers.threads.map_threads` over actors. They start with the first item of the first map and
    serve all maps of the block: a process that imports torch takes seconds to come up.
    """
    import ray

    actors = []

    def map_actors(function, items, setup):
        if not actors:
            needs = {"CPU": 1, "GPU": GPU_SHARE if device == "cuda" else 0}
            there = ray.cluster_resources()
            if needs["GPU"] and not there.get("GPU"):
                log.warning("the cluster has no GPU yet: waiting for one")
            room = min(int(there.get(kind, 0) / need) for kind, need in needs.items() if need)
            cls = ray.remote(
                num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=-1, max_task_retries=TRIES
            )(_Worker)  # fmt: skip
            actors.extend(cls.remote() for _ in range(workers or max(room, 1)))
        return _map(actors, function, items, setup)

    try:
        yield map_actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _map(actors, function, items, setup):
    """Yield (item, result) as results come.

    An actor gets its first item once it runs, so a cluster with room for fewer actors than asked does all the work. An
    actor that dies is started again, elsewhere if its machine is gone, and its items are done again.

    Raises
    ------
    Exception
        The function's own, or Ray's when an item was lost with its worker too many times.
    """
    import ray

    work = ray.cloudpickle.dumps((function, setup))
    key = hashlib.sha256(work).hexdigest()
    if len(work) > INLINE:
        work = ray.put(work)
    items, working = iter(items), 0
    pending = {actor.ready.remote(): (actor, None) for actor in actors}  # reference -> (actor, item)
    while pending:
        (reference,), _ = ray.wait(list(pending), num_returns=1)
        actor, done = pending.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, BadInput | OSError) else error from None
        for _ in range(WINDOW if done is None else 1):
            if (item := next(items, None)) is not None:
                pending[actor.run.remote(key, work, item)] = actor, item
                working += 1
        if done is not None:
            working -= 1
            yield done, result
        if not working:
            return  # no item is left, and an actor that never came up is not waited for


class _Worker:
    """What an actor is: a state, built with the first item of a map, and a function."""

    def __init__(self):
        import torch

        torch.set_num_threads(1)
        self.key = None

    def ready(self):
        """Return when the process is there."""

    def run(self, key, work, item):
        """The function's result for one item; what to do comes along, as the actor may have just been started again."""
        if key != self.key:
            self.key = self.state = None  # the state of the map before goes before the next one is built
            self.function, setup = pickle.loads(work)
            threadpool_limits(**ONE_THREAD)  # here, as it sees only libraries that are loaded
            self.state, self.key = setup(), key
        return self.function(self.state, item)
