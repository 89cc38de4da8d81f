"""The share of a GPU that an actor of a Ray cluster takes: a whole one, or what its memory asks for."""

import logging
from collections.abc import Mapping

from data_loaders.errors import BadInput

log = logging.getLogger("cfgen_dist")
# GiB of the cards that Ray knows by name (the resource `accelerator_type:NAME` of a machine), the smallest of a name.
CARDS = {
    "T4": 16, "P4": 8, "P100": 12, "V100": 16, "A10G": 24, "L4": 24, "L40S": 48, "A100": 40, "A100-40G": 40,
    "A100-80G": 80, "H100": 80, "H200": 141, "H20": 96, "B200": 180, "RTX-PRO-6000": 96,
}  # fmt: skip
USABLE = 0.9  # of a card's memory: the driver and the allocator keep the rest
MOST = 16  # actors a card: each starts its kernels alone, and more would only wait for one another


def read_share(share: float | str | None) -> float | None:
    """What was asked for as a number: 1 by default, None for "auto".

    Raises
    ------
    BadInput
    """
    if share is None:
        return 1.0
    if share == "auto":
        return None
    try:
        number = float(share)
    except ValueError:
        number = -1.0
    if not 0 < number <= 1:
        raise BadInput(f"`gpus_per_worker` is {share}, expected a share of one card, above 0 and at most 1, or auto")
    return number


def share_by_memory(needed: int, resources: Mapping[str, float]) -> float:
    """The share of a card that an actor of `needed` bytes takes, so that its card holds all that are placed there.

    Parameters
    ----------
    needed : int
        Bytes of one actor on the card.
    resources : dict
        Of the cluster, as `ray.cluster_resources()` gives them. Its smallest known card counts.

    Returns
    -------
    float
        1 / n for n actors a card, rounded down to what Ray counts in, ten-thousandths; 1 where no card is known.
    """
    names = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    sizes = [CARDS[name] for name in names if name in CARDS]
    if not sizes or len(sizes) < len(names):
        known = f"cards are {', '.join(names)}" if names else "no machine says which cards it has"
        log.warning("the memory of the cluster's GPUs is not known (%s): an actor takes a whole one", known)
        return 1.0
    fit = int(min(sizes) * 2**30 * USABLE // needed)
    if fit < 1:
        log.warning("an actor needs about %.1f GiB, the smallest card has %d GiB", needed / 2**30, min(sizes))
    n = max(1, min(fit, MOST))
    return int(10_000 / n) / 10_000
