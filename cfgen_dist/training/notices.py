"""Notices to stop that reach the ranks of a training on Ray: from the driver, from Ray, from a signal.

The driver leaves a word in the key-value store of the cluster's head; a thread of rank 0 looks for it. Ray Train tells
each rank when a machine of the group is to be taken away (`ray drain-node`, a spot instance under an autoscaler that
says so, KubeRay). A worker that gets SIGTERM keeps it for the end of the step.

Ray's own `ray.train.get_preemption_info()` makes all ranks wait for an actor; called after every step it would cost
more than many steps do. The notice itself is on each rank already, and is passed on by `stopping.Agreement`.
"""

import logging
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from cfgen_dist.training.stopping import ask

log = logging.getLogger("cfgen_dist")
SPACE = b"cfgen-dist"
LOOK_EVERY = 0.5  # seconds


def leave_word(key: str, why: str) -> None:
    """As the driver: ask the workers that look at `key` to stop."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key.encode(), why.encode(), namespace=SPACE)


def take_word_back(key: str) -> None:
    """Forget what was left."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key.encode(), namespace=SPACE)


def listen(key: str, first: bool) -> None:
    """As a worker: from now on pass notices on to `stopping`.

    Parameters
    ----------
    key : str
        Where the driver leaves its word.
    first : bool
        Whether this is rank 0, which looks there.
    """
    from ray.experimental.internal_kv import _internal_kv_get
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_EVERY):
            if told.preemption_info is not None:
                ask("a machine will be taken away")
                return
            with suppress(Exception):  # a head that does not answer for a while
                word = _internal_kv_get(key.encode(), namespace=SPACE) if first else None
                if word:
                    ask(word.decode())
                    return

    threading.Thread(target=look, daemon=True, name="notices").start()


def keep_sigterm() -> None:
    """In the main thread of a worker: its first SIGTERM asks for the end of the training, the next one ends it."""
    before: Any = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        ask("SIGTERM to a worker")

    signal.signal(signal.SIGTERM, handle)
