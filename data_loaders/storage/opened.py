"""Buckets opened by obstore: one client for each, with retries; and what goes wrong there, in one line."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from data_loaders.errors import BadInput
from data_loaders.storage.address import BUCKETS, WEB, as_address, shown, told
from data_loaders.storage.options import settings_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

    from data_loaders.types import PathLike

RETRY: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}
CLIENT = {"timeout": "3min", "read_timeout": "30s", "connect_timeout": "10s"}  # a slow link is no broken one
# Hosts whose addresses begin with the name of a bucket
PATH_STYLE = re.compile(
    r"s3[.-][\w.-]*amazonaws\.com|[\w-]+\.r2\.cloudflarestorage\.com|[\w-]+\.blob\.core\.windows\.net"
)


class NoAnswer(BadInput):
    """Object storage did not answer, or refused: what is there is as good as it was, and can be asked for again."""


class Spot(NamedTuple):
    """Where an address points to."""

    base: str  # of the bucket or host
    key: str  # in it, "" for all of it; no slash at either end
    service: str  # s3, gs, az, http


def spot_of(path: PathLike) -> Spot:
    """Where an address points to.

    Raises
    ------
    BadInput
        An address without a bucket, with an empty step, or of an unknown kind.
    """
    address = as_address(path)
    if address is None:
        raise BadInput(f"{path}: expected an address, as s3://bucket/name")
    scheme, _, rest = address.partition("://")
    host, _, key = rest.partition("/")
    if not host:
        raise BadInput(f"{shown(address)}: expected the name of a bucket, as s3://bucket/name")
    if scheme in WEB:
        key = key.partition("?")[0].partition("#")[0]
        base, service = f"{scheme}://{host}", "http"
        if PATH_STYLE.fullmatch(host):
            first, _, key = key.partition("/")
            base = f"{base}/{first}"
        if PATH_STYLE.fullmatch(host) or ".amazonaws.com" in host:
            service = "az" if "blob" in host else "s3"
    else:
        base, service = f"{scheme}://{host}", BUCKETS[scheme]
        if "?" in key and "=" in key.partition("?")[2]:
            key = key.partition("?")[0]  # options of others; ours are given with `storage`
    key = key.strip("/")
    if any(step in ("", ".", "..") for step in key.split("/")) and key:
        raise BadInput(f"{shown(address)}: an address has no empty step, no `.` and no `..`")
    return Spot(base, key, service)


def open_bucket(base: str, service: str, key: str = "", given: Mapping[str, Any] | None = None) -> Bucket:
    """The bucket of an address, or what begins with `key` in it; the same object for the same options.

    Parameters
    ----------
    base, service, key : str
        See `Spot`.
    given : dict, optional
        Options that overrule all others.

    Raises
    ------
    BadInput
        obstore is not installed, or does not accept the options; or this process was forked from one that used object
        storage.
    """
    config, client, credentials = settings_of(service, given)
    if base.startswith("http://"):
        client.setdefault("allow_http", True)
    settings = json.dumps([config, client], sort_keys=True, default=str)
    if credentials is not None:
        _fetched.setdefault(settings, credentials)
    return _open(base, key, settings)


_fetched: dict[str, Any] = {}  # settings -> who fetches keys for them
_used_by: list[int] = []  # the process in which obstore's threads are


@functools.lru_cache(maxsize=64)
def _open(base: str, key: str, settings: str) -> Bucket:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise BadInput(f"{shown(base)}: object storage is reached by obstore: install the extra `remote`") from error
    config, client = json.loads(settings)
    _used_by[:] = _used_by or [os.getpid()]
    address = f"{base}/{_quoted(key)}" if key else base
    more = {"credential_provider": _fetched[settings]} if settings in _fetched else {}
    try:
        return from_url(address, config=config, client_options=CLIENT | client, retry_config=RETRY, **more)
    except Exception as error:  # obstore has one class for each service
        raise BadInput(f"{shown(address)}: cannot be opened ({told(error)})") from None


def _quoted(key: str) -> str:
    from urllib.parse import quote

    return quote(key)


def check_process(name: str) -> None:
    """Raise `BadInput` in a process that was forked from one that used object storage: it would wait for ever."""
    if _used_by and _used_by[0] != os.getpid():
        raise BadInput(
            f"{name}: object storage cannot be reached from a process forked from one that has reached it; start "
            "processes with `spawn` (multiprocessing_context='spawn' of a DataLoader)"
        )


@contextmanager
def answered(name: str, doing: str = "read") -> Iterator[None]:
    """Turn what obstore raises into one line of `BadInput`; FileNotFoundError passes."""
    check_process(name)
    try:
        yield
    except (BadInput, FileNotFoundError):
        raise
    except Exception as error:
        if not type(error).__module__.startswith("obstore") and not isinstance(error, ValueError | OSError):
            raise
        raise NoAnswer(f"{name}: cannot be {doing}{_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Why, in words where they are known, and what the service said."""
    kind, tries = type(error).__name__, re.search(r"after (\d+) retries", str(error))
    if "NoSuchBucket" in str(error):
        return ": there is no such bucket"
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return f": permission denied; are the keys those of this bucket? ({told(error)})"
    return f"{f' after {int(tries[1]) + 1} tries' if tries else ''} ({told(error)})"
