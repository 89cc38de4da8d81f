"""The workers of a Ray cluster: actors that are replaced when they die."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from cfgen_dist.workers.cluster import waiting_for
from cfgen_dist.workers.threads import ONE_THREAD, WINDOW, Item, Result, State
from data_loaders.errors import BadInput
from data_loaders.storage import carried, carry

if TYPE_CHECKING:
    from cfgen_dist.workers.threads import Pool

log = logging.getLogger("cfgen_dist")
INLINE = 64 << 10  # bytes that may travel with every item
TRIES = 20  # of one item, then the run ends: it may be the item that kills the workers


@contextmanager
def open_actors(
    workers: int | None = None, gpus: Callable[[Mapping[str, float]], float] | None = None
) -> Iterator[Pool]:
    """Actors of the cluster that is connected, for as long as the block lasts: yields map(function, items, setup).

    Each takes a CPU and, where `gpus` is given, that share of a GPU, a function of the cluster's resources. By default
    there are as many as the cluster has room for.

    The map is `cfgen_dist.workers.threads.map_threads` over actors. They start with the first item of the first map and
    serve all maps of the block: a process that imports torch takes seconds to come up.
    """
    import ray

    actors: list[Any] = []  # handles

    def map_actors(
        function: Callable[[State, Item], Result], items: Iterable[Item], setup: Callable[[], State]
    ) -> Iterator[tuple[Item, Result]]:
        if not actors:
            resources = ray.cluster_resources()
            needs = {"CPU": 1, "GPU": gpus(resources) if gpus else 0}
            if gpus:
                log.info("each worker takes %g of a GPU", needs["GPU"])
                if not resources.get("GPU"):
                    log.warning("the cluster has no GPU yet: waiting for one")
            room = min(int(resources.get(kind, 0) / need) for kind, need in needs.items() if need)
            cls = ray.remote(
                num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_restarts=-1, max_task_retries=TRIES
            )(_Worker)  # fmt: skip
            actors.extend(cls.remote(carried()) for _ in range(workers or max(room, 1)))
        return _map(actors, function, items, setup)

    try:
        yield map_actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _map(
    actors: list[Any], function: Callable[[State, Item], Result], items: Iterable[Item], setup: Callable[[], State]
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as results come.

    An actor gets its first item once it runs, so a cluster with room for fewer actors than asked does all the work. An
    actor that dies is started again, elsewhere if its machine is gone, and its items are done again.

    Raises
    ------
    Exception
        The function's own, or Ray's when an item was lost with its worker too many times.
    """
    import ray

    work: Any = ray.cloudpickle.dumps((function, setup))
    key = hashlib.sha256(work).hexdigest()
    if len(work) > INLINE:
        work = ray.put(work)
    items, working = iter(items), 0
    pending: dict[Any, tuple[Any, Item | None]]  # reference -> (actor, item)
    pending = {actor.ready.remote(): (actor, None) for actor in actors}
    while pending:
        if working:
            (reference,), _ = ray.wait(list(pending), num_returns=1)
        else:
            with waiting_for("the cluster to have room for a worker, which takes a CPU"):
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
    """An actor: a function, and a state that is built with the first item of a map.

    `storage` is how the driver reaches object storage; see `data_loaders.storage.options.carried`.
    """

    def __init__(self, storage: dict[str, str]) -> None:
        import torch

        carry(storage)
        torch.set_num_threads(1)
        self.key: str | None = None
        self.state: Any = None

    def ready(self) -> None:
        """Return when the process is there."""

    def run(self, key: str, work: bytes, item: Any) -> Any:
        """The function's result for one item; what to do comes along, as the actor may have just been started again."""
        if key != self.key:
            self.key = self.state = None  # the state of the map before goes before the next one is built
            self.function, setup = pickle.loads(work)
            threadpool_limits(**ONE_THREAD)  # here, as it sees only libraries that are loaded
            self.state, self.key = setup(), key
        return self.function(self.state, item)
