"""How many workers a cluster has room for: asked of Ray itself, by claims that it grants or not.

A claim is a placement group of one worker's resources. It is granted when a machine with the labels has them free, so
what other jobs hold, machines that are about to leave and machines that do not answer are taken into account, and a
cluster that grows by itself sees what is wanted. Ray Train's own count for `ScalingConfig(num_workers=(MIN, MAX))` is
of what machines have, free or not, whatever their labels.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")
Labels = Mapping[str, str]
SETTLED = 3.0  # seconds without a new grant until it is taken that no more will come
AGAIN = 60.0  # seconds between two lines that say what is waited for


def read_range(workers: int | str | Sequence[int] | None) -> tuple[int, int]:
    """The smallest and the largest number of workers: of N, of "MIN:MAX", of (MIN, MAX); 1 by default.

    Raises
    ------
    BadInput
    """
    found: list[Any] = [workers, workers]
    if workers is None:
        found = [1, 1]
    elif isinstance(workers, str):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?::\s*(-?\d+)\s*)?", workers)
        found = [int(match[1]), int(match[2] or match[1])] if match else []
    elif isinstance(workers, Sequence):
        found = list(workers)
    if len(found) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise BadInput(f"`workers` is {workers!r}, expected N, or MIN:MAX such as 2:8")
    least, most = found
    if least < 1:
        raise BadInput(f"`workers` is {workers}, expected at least 1")
    if most < least:
        raise BadInput(f"`workers` is {workers}, expected MIN:MAX with MIN at most MAX")
    return least, most


def read_labels(labels: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """The labels that machines must have: of a dict, or of ["KEY=VALUE", ...].

    Raises
    ------
    BadInput
    """
    if labels is None:
        return {}
    if isinstance(labels, Mapping):
        return {str(key): str(value) for key, value in labels.items()}
    pairs = [text.partition("=") for text in ([labels] if isinstance(labels, str) else labels)]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise BadInput(f"`label_selector` is {key + equals + value!r}, expected KEY=VALUE")
    return {key: value for key, _, value in pairs}


class Claims:
    """Claims for one worker each, granted as machines have room.

    Parameters
    ----------
    n : int
    each : dict
        Resources of a worker.
    labels : dict
        What its machine must have.
    """

    def __init__(self, n: int, each: Mapping[str, float], labels: Labels) -> None:
        from ray.util.placement_group import placement_group

        selector = [dict(labels)] if labels else None
        self.groups = [placement_group([dict(each)], bundle_label_selector=selector) for _ in range(n)]

    def granted(self) -> int:
        """How many are granted."""
        from ray.util.placement_group import placement_group_table

        return sum(placement_group_table(group)["state"] == "CREATED" for group in self.groups)

    def drop(self) -> None:
        """Give everything back."""
        from ray.util.placement_group import remove_placement_group

        for group in self.groups:
            remove_placement_group(group)
        self.groups = []


def count_room(
    least: int, most: int, each: Mapping[str, float], labels: Labels, patience: float, tell: Callable[[], None]
) -> int:
    """How many workers there is room for now, at most `most`; waits until there is room for `least`.

    Parameters
    ----------
    least, most : int
    each, labels : dict
    patience : float
        Seconds without a new grant until it is taken that no more will come.
    tell : callable
        Called several times a second; it may raise to end the waiting.
    """
    claims = Claims(most, each, labels)
    try:
        began = heard = changed = time.monotonic()
        before = 0
        while True:
            granted, now = claims.granted(), time.monotonic()
            if granted != before:
                before, changed = granted, now
            if granted == most or (granted >= least and now - changed >= patience):
                return granted
            if granted < least and now - heard >= (AGAIN if heard > began else 8):
                where = "".join(f" {key}={value}" for key, value in labels.items())
                log.info(
                    "waiting for the cluster to have room for %d workers with %s%s: %d so far",
                    least, dict(each), f" on machines with{where}" if where else "", granted,
                )  # fmt: skip
                heard = now
            tell()
            time.sleep(0.2)
    finally:
        claims.drop()
