"""Whether a store, a run or a bundle is what was written, and generated cells are what their model and plan make."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cfgen_dist.verification.files import Check, checks_of, kind_of
from cfgen_dist.verification.origin import verify_shards
from cfgen_dist.workers.options import Workers
from cfgen_dist.workers.pool import open_pool
from data_loaders.errors import BadInput
from data_loaders.progress import progress
from data_loaders.seeds import check_seed
from data_loaders.storage import local_copy, place
from data_loaders.storage.opened import NoAnswer
from data_loaders.types import PathLike

log = logging.getLogger("cfgen_dist")
SHARDS = 3  # made again where a run is given and no number
SHOWN = 3  # faults named in the message


@dataclass
class Found:
    """What the checks came to."""

    files: int = 0
    bytes: int = 0
    unchecked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def verify(
    store: PathLike,
    run: PathLike | None = None,
    shards: int | None = None,
    *,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, Any]:
    """Compare every file with its checksum, and generated cells with what their model and plan make.

    Parameters
    ----------
    store : path-like
        An atlas, real or generated, a store of latents, a run, or a model bundle; a folder or an address.
    run : path-like, optional
        Of a generated store the bundle that it was made with, or the run that holds it: random shards are made again
        and their counts and labels compared.
    shards : int, optional
        How many; 3 by default, all when there are fewer.
    seed : int
        Chooses them.
    workers : int, optional
        Threads; one for each core by default.

    Returns
    -------
    dict
        `path`, `kind` (atlas, generated atlas, latents, store, run or bundle), `files` and `bytes` that were compared,
        `unchecked` (names of what was written without checksums; of a store its arrays were read all the same), and of
        shards made again `shards` (their numbers) and `cells`.

    Raises
    ------
    BadInput
        Something is damaged, missing or not what the model and plan make: one line with the first faults. Also when
        there is no such store, or it cannot be made again.

    Examples
    --------
    >>> verify("cells.zarr", run="run", shards=5)["shards"]
    [3, 17, 20, 41, 88]
    """
    check_seed(seed)
    path = place(store)
    kind = kind_of(path)
    if run is None and shards is not None:
        raise BadInput(f"`shards` is {shards}, but making shards again needs the model: give its `run`")
    if shards is not None and shards < 1:
        raise BadInput(f"`shards` is {shards}, expected at least 1")
    if run is not None and kind != "generated atlas":
        raise BadInput(f"{path.shown}: `run` given, but this is no generated atlas (it is: {kind}); leave `run` out")
    if path.is_remote and kind in ("run", "bundle"):
        log.info("%s: copied to a temporary folder to be compared", path.shown)
        with local_copy(store) as local:
            return verify(local, workers=workers) | {"path": path.shown}
    found = Found()
    with open_pool(Workers(None, workers)) as pool:
        checks = list(checks_of(path, kind))
        with progress("verify", sum(check.size for check in checks) >> 20, "MB") as advance:
            done = 0
            for number, fault in pool(_look, range(len(checks)), lambda: checks):
                check = checks[number]
                _note(found, check, fault)
                done += check.size
                advance((done >> 20) - (done - check.size >> 20))
    report = {"path": path.shown, "kind": kind, "files": found.files, "bytes": found.bytes}
    report["unchecked"] = sorted(found.unchecked)
    if not found.faults and run is not None:
        made, n_cells, wrong = verify_shards(str(path), run, shards or SHARDS, seed, workers)
        report |= {"shards": made, "cells": n_cells}
        found.faults += wrong
    if found.faults:
        raise BadInput(f"{path.shown}: {_shown(sorted(found.faults))}; {_way_on(kind)}")
    return report


def _look(checks: list[Check], number: int) -> str | None:
    """What is wrong with one file."""
    try:
        return checks[number].fault()
    except NoAnswer:  # which says nothing of the file
        raise
    except BadInput as error:
        return str(error)
    except OSError as error:
        return f"{checks[number].name} cannot be read ({error.strerror or error})"


def _note(found: Found, check: Check, fault: str | None) -> None:
    if fault is not None:
        found.faults.append(fault)
    if check.is_checked:
        found.files += 1
        found.bytes += check.size
    elif fault is None:
        found.unchecked.append(check.name)


def _shown(faults: list[str]) -> str:
    """The first faults, as the middle of a line."""

    def parts() -> Iterator[str]:
        yield f"{len(faults):,} fault{'s' if len(faults) > 1 else ''}"
        yield ", ".join(" ".join(fault.split()) for fault in faults[:SHOWN])

    return ": ".join(parts()) + (f", and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else "")


def _way_on(kind: str) -> str:
    if kind == "run":
        return "restore it; or remove a damaged checkpoint or weights, and `train(resume=True)` makes them again"
    return "restore it from a copy, or make it again"
