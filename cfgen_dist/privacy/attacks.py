"""Attacks on membership: from what generated cells are to a cell, guess whether it was among the training cells.

Every attack is a score for each cell asked about, higher where membership is likelier. Its strength is the area under
the ROC curve of members against held-out cells: 0.5 is a guess, 1 a certainty. Intervals are of the bootstrap over
cells, or over donors where whole donors were held out, members and held-out ones apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, hypergeom, rankdata

from cfgen_dist.privacy.cohort import Cohort
from cfgen_dist.privacy.nearest import Nearest, Queries
from data_loaders.types import Array, Bools, Floats, Ints

REPLICATES = 1000
HALVES = 200
COVERED = 0.95
ATTACKS = ("distance", "gan_leaks", "domias", "overlap")
RANKS = (1, 5)  # held-out cells that may be nearer, but for fewer than this many, than a near copy is
Interval = dict[str, float | None]


class Floor(NamedTuple):
    """Near copies among real cells in the place of generated ones.

    Attributes
    ----------
    overlap : float64 array (2 n,)
        Of every cell asked about, as of `attack_scores`.
    others : float
        Of all cells of the floor and of the other set, the share of the other set.
    """

    overlap: Floats
    others: float


def attack_scores(nearest: Nearest, queries: Queries) -> dict[str, Floats]:
    """The score of every cell asked about (2 n,) in each attack.

    Parameters
    ----------
    nearest : Nearest
        To the cells of the set that is given away.
    queries : Queries

    Returns
    -------
    dict of str to float64 array
        distance : minus the distance to the nearest generated cell (Chen et al. 2020, GAN-leaks, full black box).
        gan_leaks : the same, calibrated: the distance to the nearest cell of the reference less that (ibid., eq. 8,
        real held-out cells in the place of the cells of a reference model).
        domias : log density of generated cells less that of the reference, by kernels (van Breugel et al. 2023, eq. 2).
        overlap : share of the counts in common with the nearest generated cell.
    """
    return {
        "distance": -nearest.distance,
        "gan_leaks": queries.reference - nearest.distance,
        "domias": nearest.log_sum - np.log(nearest.n_cells) - queries.reference_density,
        "overlap": nearest.overlap,
    }


def measures(
    nearest: Nearest,
    queries: Queries,
    cohort: Cohort,
    types: Ints,
    rng: np.random.Generator,
    *,
    donors: bool,
    floor: Floor | None = None,
) -> dict[str, Interval]:
    """All measures of a set, each with its interval.

    Parameters
    ----------
    nearest, queries, cohort
    types : int array (2 n,)
        Of the cells asked about.
    rng : numpy.random.Generator
    donors : bool
        Whether the clusters of the cohort are donors, of which attacks are made as well.
    floor : Floor, optional
        See `near_copies`.

    Returns
    -------
    dict of str to {"value", "low", "high"}
        `nearest_is_training`: share of the cells of the set whose nearest real cell is a training cell; each of
        `ATTACKS`: area under its curve; `near_copies`: see there; with `donors`, `donors.ATTACK` as well.
    """
    weights = replicates(cohort, rng)
    is_member = cohort.is_member
    scores = attack_scores(nearest, queries)
    share = np.array([_share(nearest.attached, is_member, weight) for weight in weights])
    found = {"nearest_is_training": _interval(_share(nearest.attached, is_member), share)}
    for name, values in scores.items():
        found[name] = _interval(area(values, is_member), areas(values, is_member, weights))
    found["near_copies"] = near_copies(scores["overlap"], is_member, floor)
    if donors:
        clusters, place = np.unique(cohort.cluster, return_inverse=True)
        of_member = np.zeros(len(clusters), bool)
        of_member[place[is_member]] = True
        drawn_donors = [np.bincount(place, weight) / np.bincount(place) for weight in weights]
        for name, values in scores.items():
            mean = donor_scores(values, types, place)
            found[f"donors.{name}"] = _interval(area(mean, of_member), areas(mean, of_member, drawn_donors))
    return found


def points(nearest: Nearest, queries: Queries, is_member: Bools, floor: Floor | None = None) -> dict[str, float]:
    """The measures of the cells of a set without their intervals; of near copies the p-value."""
    scores = attack_scores(nearest, queries)
    found = {name: area(values, is_member) for name, values in scores.items()}
    p_value = near_copies(scores["overlap"], is_member, floor)["p"]
    found["nearest_is_training"] = _share(nearest.attached, is_member)
    return found | {"near_copies": 1.0 if p_value is None else p_value}


def donor_scores(scores: Floats, types: Ints, place: Ints) -> Floats:
    """Score of each donor: mean over its cells of their scores, those of a type less the type's mean.

    Parameters
    ----------
    scores : float64 array (n,)
    types, place : int array (n,)
        Type and donor of each cell, the donors numbered from 0.
    """
    mean = np.bincount(types, scores) / np.maximum(np.bincount(types), 1)
    return np.bincount(place, scores - mean[types]) / np.bincount(place)


def near_copies(shared: Floats, is_member: Bools, floor: Floor | None = None) -> Interval:
    """Members with more in common with a generated cell than nearly every held-out cell has.

    Were members like held-out cells, those with more than all but r - 1 of the held-out cells would be r on average,
    whatever is generated. The p-value is exact (negative hypergeometric), of the smaller of those for the `RANKS`,
    doubled.

    Parameters
    ----------
    shared : float64 array (2 n,)
        Share of counts in common with the nearest cell.
    is_member : bool (2 n,)
    floor : Floor, optional
        Where whole donors were held out, members are not like held-out cells, and some are found in any set of their
        donors. Then they must be more than in the floor as well: the p-value is the larger of the two, the other being
        binomial, given how many in both sets exceed the bounds of both.

    Returns
    -------
    dict
        `value`, how many; `expected`; `p`; `bound`, what they exceed; of the largest of `RANKS`.
    """
    n = int(is_member.sum())
    found: Interval = {}
    p_values = []
    for rank in RANKS:
        bound = _bound(shared[~is_member], rank)
        many = int((shared[is_member] > bound).sum())
        p_values.append(float(hypergeom.cdf(rank - 1, 2 * n, n, many + rank - 1)) if many else 1.0)
        found = {"value": many, "expected": rank, "bound": bound}
    p_value = min(1.0, len(RANKS) * min(p_values))
    if floor is not None:
        bound = max(_bound(shared[~is_member], RANKS[-1]), _bound(floor.overlap[~is_member], RANKS[-1]))
        here, there = (int((values[is_member] > bound).sum()) for values in (shared, floor.overlap))
        p_value = max(p_value, float(binom.sf(here - 1, here + there, floor.others)))
    return found | {"p": p_value}


def _bound(held_out: Floats, rank: int) -> float:
    """The largest value but for `rank` - 1."""
    return float(np.sort(held_out)[-min(rank, len(held_out))])


def area(scores: Floats, is_member: Bools) -> float:
    """Area under the ROC curve of members against the others, ties counting half."""
    return float(areas(scores, is_member, np.ones((1, len(scores))))[0])


def areas(scores: Floats, is_member: Bools, weights: Sequence[Array] | Array) -> Floats:
    """Area under the ROC curve for each of several weightings of the cells; NaN where a side has no weight.

    Parameters
    ----------
    scores : float64 array (n,)
    is_member : bool (n,)
    weights : array (W, n), or a list of W
        How often each cell counts.

    Returns
    -------
    float64 array (W,)
    """
    rank = rankdata(scores, "dense") - 1
    found = np.full(len(weights), np.nan)
    for i, weight in enumerate(weights):
        members = np.bincount(rank, weight * is_member)
        others = np.bincount(rank, weight * ~is_member)
        pairs = members.sum() * others.sum()
        if pairs:
            found[i] = members @ (np.cumsum(others) - others / 2) / pairs
    return found


def split_halves(nearest: Nearest, queries: Queries, is_member: Bools, rng: np.random.Generator) -> dict[str, Interval]:
    """The check: held-out cells against themselves, a random half of them called members; 0.5 is right.

    Returns
    -------
    dict of str to {"value", "low", "high"}
        Mean over `HALVES` splits, and the range of 95 % of them, of `nearest_is_training` and each of `ATTACKS`.
    """
    held_out, n = ~is_member, int((~is_member).sum())
    drawn: dict[str, list[float]] = {"nearest_is_training": [], **{name: [] for name in ATTACKS}}
    scores = {name: values[held_out] for name, values in attack_scores(nearest, queries).items()}
    for _ in range(HALVES):
        half = rng.permutation(n) < n // 2
        drawn["nearest_is_training"].append(_share(nearest.attached[held_out], half))
        for name, values in scores.items():
            drawn[name].append(area(values, half))
    return {name: _interval(float(np.nanmean(values)), np.array(values)) for name, values in drawn.items()}


def replicates(cohort: Cohort, rng: np.random.Generator) -> Ints:
    """How often each cell is drawn in each replicate of the bootstrap (`REPLICATES`, 2 n), clusters drawn whole."""
    clusters, place = np.unique(cohort.cluster, return_inverse=True)
    of_member = np.zeros(len(clusters), bool)
    of_member[place[cohort.is_member]] = True
    drawn = np.zeros((REPLICATES, len(clusters)), np.int16)
    for side in (np.flatnonzero(of_member), np.flatnonzero(~of_member)):
        drawn[:, side] = rng.multinomial(len(side), np.full(len(side), 1 / len(side)), REPLICATES)
    return drawn[:, place]


def _share(attached: Ints, is_member: Bools, weights: Ints | None = None) -> float:
    """Share of a set whose nearest cell is a member."""
    counted = attached if weights is None else attached * weights
    total = counted.sum()
    return float(counted[is_member].sum() / total) if total else float("nan")


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
