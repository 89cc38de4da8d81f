"""Planted leaks: what an audit would have said, had some of the training cells been in the set given away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from cfgen_dist.privacy.attacks import ATTACKS, Floor, Interval, points
from cfgen_dist.privacy.cohort import Cohort
from cfgen_dist.privacy.nearest import Nearest, Queries
from data_loaders.seeds import Audit, generator
from data_loaders.statistics.pca import Components

SHARES = (0.005, 0.02, 0.1)  # of the training cells
KEPT = 0.9  # of the counts of a noised cell, on average
KINDS = {
    "copied": "as they are",
    "noised": f"each count kept with probability {KEPT:g}",
    "resampled": "each count drawn anew, Poisson with itself as the mean",
}
DRAWS = 10
LEVEL = 0.01  # p-value below which near copies are seen
SEEN_BY = ("near_copies", "nearest_is_training", *ATTACKS)


def leak(counts: sparse.csr_matrix, kind: str, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts (CSR) of cells that leak, as they would stand among generated ones; see `KINDS`."""
    leaked = counts.copy()
    if kind == "noised":
        leaked.data = rng.binomial(leaked.data, KEPT)
    elif kind == "resampled":
        leaked.data = rng.poisson(leaked.data)
    leaked.eliminate_zeros()
    return leaked


def power(
    nearest: Nearest,
    space: Components,
    queries: Queries,
    cohort: Cohort,
    found: Mapping[str, Interval],
    floor: Floor | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Plant leaks into a set, and count in how many draws each measure sees them.

    A measure sees a leak where its value is above the upper end of the interval that it has without the leak; near
    copies are seen where their p-value is below `LEVEL`.

    Parameters
    ----------
    nearest : Nearest
        To the cells of the set.
    space, queries, cohort
    found : dict
        Measures of the set, see `attacks.measures`.
    floor : Floor, optional
        See `attacks.near_copies`.
    seed : int

    Returns
    -------
    list of dict
        For each kind and share: `kind`, `share`, `cells` (planted), `exact_copies` (how many of these are exact
        copies, mean over draws), `value` and `seen` {measure: mean over draws, share of draws}; the value of near
        copies is their p-value.
    """
    n, rows = len(cohort.members), []
    for number, (kind, share) in enumerate((kind, share) for kind in KINDS for share in SHARES):
        planted = max(1, round(share * n))
        drawn, exact = [], 0.0
        for draw in range(DRAWS):
            rng = generator(seed, Audit.PLANTED, number, draw)
            counts = queries.counts[np.sort(rng.choice(n, planted, replace=False))]
            leaked = leak(counts, kind, rng)
            exact += float((np.diff((leaked != counts).tocsr().indptr) == 0).sum()) / DRAWS
            with_leak = nearest.add(queries, space.project(leaked), leaked)
            drawn.append(points(with_leak, queries, cohort.is_member, floor))
        rows.append(
            {
                "kind": kind,
                "share": share,
                "cells": planted,
                "exact_copies": exact,
                "value": {name: float(np.mean([values[name] for values in drawn])) for name in SEEN_BY},
                "seen": {name: float(np.mean([_sees(name, each[name], found) for each in drawn])) for name in SEEN_BY},
            }
        )
    return rows


def _sees(name: str, value: float, found: Mapping[str, Interval]) -> bool:
    if name == "near_copies":
        return value < LEVEL
    bound = found[name]["high"]
    return bound is not None and value > bound
