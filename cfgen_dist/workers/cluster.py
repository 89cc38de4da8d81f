"""Be connected to a Ray cluster: join one, or start one in this machine."""

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")
OBJECT_STORE = 128 << 20  # bytes: only small results pass through it
SILENCE, AGAIN = 5.0, 30.0  # seconds of waiting before it is said what is waited for, and before that is repeated


@contextmanager
def connect(address: str = "auto", workers: int | None = None) -> Iterator[ModuleType]:
    """Be connected to a Ray cluster for as long as the block lasts; yields Ray.

    Parameters
    ----------
    address : {"auto", "local"} or str
        "local" starts a cluster in this machine and stops it at the end, dashboard off, closed to whoever lacks its
        random token, its folders closed to other users. Ray listens on all addresses of the machine: docs/cluster.md.
        "auto" joins the cluster that the environment variable RAY_ADDRESS names (as inside `ray job submit`) and starts
        a local one when there is none. Anything else is the address of a cluster. A connection that exists already is
        used, and left open.
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
        raise BadInput("`ray`: Ray is not installed; pip install 'cfgen-dist[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    folder = None
    try:
        if local:
            # Sockets live in this folder and their paths are limited to 107 characters: no long TMPDIR.
            folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if Path("/tmp").is_dir() else None)
            session = os.path.join(folder, "s")  # Ray opens it to everybody: the folder around it stays private
            with waiting_for("Ray to start in this machine"):
                ray.init(
                    "local", num_cpus=workers, include_dashboard=False, object_store_memory=OBJECT_STORE,
                    _temp_dir=session, _node_ip_address="127.0.0.1", **quiet,
                )  # fmt: skip
            _make_private(session)
        else:
            _join(ray, address, quiet)
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Say what is waited for, once the block has taken 5 seconds, and every 30 seconds from then on."""
    ended, began = threading.Event(), time.monotonic()

    def say() -> None:
        pause = SILENCE
        while not ended.wait(pause):
            log.info("waiting for %s, for %.0f s so far", what, time.monotonic() - began)
            pause = AGAIN

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _make_private(folder: str) -> None:
    """Close a folder and those in it to other users."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)


def is_local(address: str) -> bool:
    """Whether `connect` starts a cluster in this machine for the address; such a cluster never grows."""
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def _settle_environment(local: bool) -> None:
    """Set what Ray reads when it is imported: no reports to its makers; a token where there is one to be had."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" in sys.modules:  # its settings stand; a token that it did not see would only lock us out
        return
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if local and not known:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if local or known or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # clients of a cluster do not switch themselves on


def _join(ray: ModuleType, address: str, quiet: dict[str, Any]) -> None:
    address = os.environ["RAY_ADDRESS"] if address == "auto" else address
    try:
        if address != "auto":  # "auto" is for Ray to find; it waits for minutes where nobody listens, so look first
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        with waiting_for(f"the Ray cluster at {address} to answer"):
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"`ray={address!r}`: no Ray cluster can be joined there ({reason})") from error
