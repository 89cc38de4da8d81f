"""One command at a time on one output: a lock beside it, that says who works there, and is taken over from the dead.

The lock of OUT is the file `.OUT.lock`, a record of host, process, the time when that process started, and a random
token. It appears whole or not at all, and only where none is (`FileLock.put_new`, a hard link). Whoever finds one asks
whether its owner lives:

- On the same machine the process is looked up: one that is gone, or of that number but started at another time, is
  dead. This needs no clock and no patience: after `kill -9` the next command goes on at once.
- On another machine (or in another container) the owner is seen by its heartbeat alone: a thread touches the lock
  every `BEAT` seconds. Its age is counted by the clock of the disk, that of a file made beside it, so the clocks of the
  machines need not agree. After `STALE` seconds of silence the owner is taken for dead.

What that cannot promise: a machine that was frozen, or cut off from the disk, for longer than `STALE` seconds loses its
lock without ending, and may write on when it comes back; it says so in its log when it does. All outputs appear by a
rename, whole or not at all, so what the other then finds is one of two whole results. And two commands that take over
the lock of the same dead owner from two machines whose shared disk caches for longer than `STALE` seconds may both win.

The lock of an address is an object beside it, `.OUT.lock` too. It is put there under conditions, "if none is there"
(`If-None-Match: *`) and "if it is still that version" (`If-Match`), so the bucket decides who of several has it; a sign
of life is the same content put again, and its age is counted by the clock of the bucket.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import logging
import os
import platform
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from data_loaders.errors import BadInput
from data_loaders.files import refuse_address
from data_loaders.lock_keepers import BucketLock, FileLock, Found, Keeper
from data_loaders.storage.address import is_remote, on_disk

if TYPE_CHECKING:
    from data_loaders.types import PathLike

SYSTEM = platform.system()
P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("data_loaders")
BEAT, STALE = 15.0, 180.0  # seconds; shared disks show a change after 60 at most by default
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def one_at_a_time(out: PathLike, make_folder: bool = False) -> Iterator[None]:
    """Hold the lock of an output for as long as the block lasts.

    Parameters
    ----------
    out : path-like
        What is made, or goes on being made.
    make_folder : bool
        Make the folder that `out` is in, if it is not there.

    Raises
    ------
    BadInput
        Another command that lives holds it: the message says on which host, which process, and since when.
    """
    if is_remote(out):
        with _held(out):
            yield
        return
    out = on_disk(out).absolute()
    made = [folder for folder in out.parents if not folder.exists()] if make_folder else []
    if make_folder:
        out.parent.mkdir(parents=True, exist_ok=True)
    if not out.parent.is_dir():  # nothing can be made there, which others say better
        yield
        return
    try:
        with _held(out):
            yield
    finally:
        for folder in made:  # nothing came of it
            with contextlib.suppress(OSError):
                folder.rmdir()


def alone(
    argument: str = "out", make_folder: bool = False, remote: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function hold the lock of the output that its argument names; without an output there is no lock.

    Parameters
    ----------
    argument : str
    make_folder : bool
        See `one_at_a_time`.
    remote : bool
        Whether the function can write to an address; it is refused otherwise.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def held(*args: P.args, **options: P.kwargs) -> T:
            try:
                out = signature.bind(*args, **options).arguments.get(argument)
            except TypeError:  # the function itself says what is wrong
                out = None
            if not isinstance(out, str | os.PathLike):
                return function(*args, **options)
            if not remote:
                refuse_address(out)
            with one_at_a_time(out, make_folder):
                return function(*args, **options)

        return held

    return decorate


@contextmanager
def _held(out: PathLike) -> Iterator[None]:
    """Hold the lock of an output whose folder is there, or of an address."""
    keeper, name = _keeper(out)
    try:
        content = hold(keeper, name)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        log.warning("%s: no lock can be kept beside it (%s): let no other command write there", name, error.strerror)
        yield
        return
    owner, ended = os.getpid(), threading.Event()
    heart = threading.Thread(target=_beat, args=(keeper, content, ended, name), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        if os.getpid() == owner:  # a forked copy of this process owns nothing
            heart.join()
            with contextlib.suppress(OSError, BadInput):
                keeper.remove(content.decode())


def _keeper(out: PathLike) -> tuple[Keeper, str]:
    """Where the lock of an output is kept, and what messages call the output."""
    if not is_remote(out):
        path = Path(out)
        return FileLock(path.with_name(f".{path.name}.lock")), str(path)
    from data_loaders.storage.bucket import BucketPlace

    place = BucketPlace.at(out)
    place.check_writable()
    if not place.key:
        raise BadInput(f"{place.shown}: a whole bucket; expected a name in it, as {place.shown}/NAME")
    return BucketLock(place.beside(f".{place.name}.lock")), place.shown


def hold(place: Keeper, out: object) -> bytes:
    """Put a lock of this process there, over one whose owner is dead if need be; returns what was put."""
    content = json.dumps(_about_this_process()).encode()
    for _ in range(50):
        if place.put_new(content):
            return content
        found = place.find()
        if found is None:  # gone just now
            continue
        alive = _sign_of_life(found)
        if alive:
            raise BadInput(f"{out}: another command is at work on it, {alive}; wait for it, or end it")
        if place.put_over(content, found.version):
            log.info("%s: taken over from a command that has died", out)
            return content
        time.sleep(0.1)
    raise BadInput(f"{out}: other commands take its lock over at this moment; try again")


def _sign_of_life(found: Found) -> str | None:
    """Who holds a lock, in words; None when its owner is dead."""
    from data_loaders.records import Record, parse_json

    class Owner(Record):
        token: str
        host: str
        machine: str
        pid: int
        started: str
        since: float

    silent = f"silent for {max(found.age, 0):.0f} s of the {STALE:.0f} after which it is taken for dead"
    try:
        owner = parse_json(found.content, Owner, "lock")
        since = datetime.fromtimestamp(owner["since"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (BadInput, ValueError, OverflowError, OSError):
        return None if found.age > STALE else f"whose lock cannot be read, {silent}"
    who = f"process {owner['pid']} on {owner['host']} since {since}"
    if owner["machine"] == _machine():
        started = _start_of(owner["pid"])
        if started is not None:
            return who if started and started == owner["started"] else None  # "": gone
    return None if found.age > STALE else f"{who}, {silent}"


def _about_this_process() -> dict[str, str | int | float]:
    pid = os.getpid()
    return {
        "token": secrets.token_hex(16),
        "host": platform.node(),
        "machine": _machine(),
        "pid": pid,
        "started": _start_of(pid) or "",
        "since": time.time(),
    }


def _machine() -> str:
    """What tells machines, their starts, and containers with processes of their own from each other."""
    parts = [platform.node()]
    for path, read in (("/proc/sys/kernel/random/boot_id", _text), ("/proc/self/ns/pid", os.readlink)):
        with contextlib.suppress(OSError):
            parts.append(read(path))
    return " ".join(parts)


def _text(path: str) -> str:
    return Path(path).read_text().strip()


def _start_of(pid: int) -> str | None:
    """When a process of this machine was started; "" when there is none of that number, None when that is unknown."""
    try:
        os.kill(pid, 0) if SYSTEM != "Windows" else None
    except ProcessLookupError:
        return ""
    except (PermissionError, OverflowError):
        pass
    if SYSTEM == "Linux":
        try:
            stat = _text(f"/proc/{pid}/stat")
            fields = stat[stat.rindex(")") + 2 :].split()
        except (OSError, ValueError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more
    if SYSTEM == "Darwin":
        found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return found.stdout.strip()
    return None


def _beat(place: Keeper, content: bytes, ended: threading.Event, out: object) -> None:
    """Give signs of life until the end, or until the lock is another's."""
    while not ended.wait(BEAT):
        try:
            found = place.find()
            if found is None or found.content != content:
                log.error("%s: its lock is gone or another command's by now: two may be at work on it; end one", out)
                return
            place.touch()
        except (OSError, BadInput) as error:  # a disk that is away for a moment
            log.warning("%s: no sign of life could be given (%s)", out, error)
