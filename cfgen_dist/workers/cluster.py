"""The Ray layer: join or start a cluster, and map a function over actors that are replaced when they die."""

import hashlib
import logging
import os
import pickle
import secrets
import shutil
import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_limits

from cfgen_dist.workers.pool import ONE_THREAD, WINDOW
from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")
OBJECT_STORE = 128 << 20  # bytes: only small results pass through it
INLINE = 64 << 10  # bytes that may travel with every item
GPU_SHARE = 0.125  # of an actor that computes on GPUs: each draws counts on its CPU most of the time
TRIES = 20  # of one item; an item that kills every worker must end the run some time


@contextmanager
def connect(address="auto", workers=None):
    """Be connected to a Ray cluster for as long as the block lasts.

    Parameters
    ----------
    address : {"auto", "local"} or str
        "local" starts a cluster in this machine and stops it at the end, dashboard off, everything on 127.0.0.1, closed
        to whoever lacks its random token. "auto" joins the cluster that the environment variable RAY_ADDRESS names (as
        inside `ray job submit`) and starts a local one when there is none. Anything else is the address of a cluster.
        A connection that exists already is used, and left open.
    workers : int, optional
        CPUs of a local cluster; by default the cores of this machine.

    Raises
    ------
    BadInput
        Ray is not installed, or there is no cluster at the address.
    """
    local = is_local(address)
    _settle_environment(local)
    try:
        import ray
    except ImportError:
        raise BadInput("--ray: Ray is not installed; pip install 'cfgen-dist[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "error"}
    folder = None
    try:
        if local:
            # Sockets live in this folder and their paths are limited to 107 characters: no long TMPDIR.
            folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if Path("/tmp").is_dir() else None)
            ray.init(
                "local", num_cpus=workers, include_dashboard=False, object_store_memory=OBJECT_STORE,
                _temp_dir=folder, _node_ip_address="127.0.0.1", **quiet,
            )  # fmt: skip
        else:
            _join(ray, address, quiet)
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def is_local(address):
    """Whether `connect` starts a cluster in this machine for the address: it has what it has, and waiting is no use."""
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def _settle_environment(local):
    """What Ray reads when it is imported: no reports to its makers; a token where there is one to be had."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" in sys.modules:  # its settings stand; a token that it did not see would only lock us out
        return
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if local and not known:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if local or known or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # clients of a cluster do not switch themselves on


def _join(ray, address, quiet):
    address = os.environ["RAY_ADDRESS"] if address == "auto" else address
    try:
        if address != "auto":  # "auto" is for Ray to find; it waits for minutes where nobody listens, so look first
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"--ray {address}: no Ray cluster can be joined there ({reason})") from error


@contextmanager
def open_actors(workers=None, device="cpu"):
    """Actors of the cluster that is connected, for as long as the block lasts: yields map(function, items, setup).

    The map is `cfgen_dist.workers.pool.map_threads` over actors. They start with the first item of the first map and
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
