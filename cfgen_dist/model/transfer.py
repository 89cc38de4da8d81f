"""Label combinations that no training cell had: what one label changes in other cells, lent to the nearest one seen.

Let y be a combination never seen, such as (CD4 T cells, stimulated). A joint network has a velocity for y all the same,
v(z, t | y), but it is an accident: the sum of two embeddings that were never trained together. What was trained is
v(. | b) of a *base* b, which is seen and differs from y in one label (CD4 T cells, control), and what that label
changes in other cells u, v(. | u with it) - v(. | u without it). So cells of y follow

    v(z, t | b) + w (v(z, t | u with) - v(z, t | u without)),    u drawn for each cell among the pairs that were seen,

whose mean over u is the field of the mean change. This is guidance by a difference of two labels, where classifier-free
guidance takes the difference of a label and none. w is found by leaving out combinations that were seen, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cfgen_dist.model.guidance import PreparedVelocity, combined, guided_terms
from cfgen_dist.model.velocity import Velocity
from data_loaders.types import Floats, Ints

FEW = 30  # cells: a combination with fewer is called rare, and lends no change
USUAL_WEIGHT = 1.25  # of models in which it was not measured; the best of both experiments on IFN-beta in the docs


@dataclass(frozen=True)
class Change:
    """How cells of a combination that was never seen are made.

    Attributes
    ----------
    attribute : int
        The label that is changed.
    base : (K,) int64 array
        The combination, seen, that it is changed in.
    without, with_ : (P, K) int64 arrays
        Pairs of seen combinations that differ in that label alone, as `base` and the wanted combination do.
    """

    attribute: int
    base: Ints
    without: Ints
    with_: Ints


@dataclass(frozen=True)
class Lesson:
    """What leaving out seen combinations in turn taught of an attribute.

    Attributes
    ----------
    weight : float
        The weight that came nearest to the cells left out.
    combinations : int
        How many were left out.
    way : float
        Share of the way from the base to the cells left out that this weight goes: 1 less the median ratio of the
        distances between means in latents, after to before.
    """

    weight: float
    combinations: int
    way: float


def find_change(wanted: Ints, combinations: Ints, counts: Ints, base: Ints | None = None) -> Change | None:
    """The base and the pairs for a combination that was never seen.

    Of all seen combinations that differ from it in one label, and that lend it pairs of `FEW` cells or more, the one
    whose pairs agree with it in most of the other labels (cells of the same type in other donors say more than cells
    of other types), then the one with most pairs, then the one with most cells.

    Parameters
    ----------
    wanted : (K,) int64 array
    combinations : (M, K) int64 array
        Those of training cells that have all labels.
    counts : (M,) int64 array
        Their cells.
    base : (K,) int64 array, optional
        Taken where it lends pairs: the labels that a cell has before it is translated.

    Returns
    -------
    Change or None
        None where no seen combination differs in one label alone and has pairs.
    """
    many = combinations[counts >= FEW]
    differs = combinations != wanted
    best: tuple[tuple[int, int, int, int], Change] | None = None
    for row in np.flatnonzero(differs.sum(axis=1) == 1):
        k = int(np.flatnonzero(differs[row])[0])
        with_, without = _pairs(many, k, int(wanted[k]), int(combinations[row, k]))
        if not len(with_):
            continue
        agreement = (with_ == wanted).sum(axis=1)
        nearest = agreement == agreement.max()
        is_base = base is not None and np.array_equal(combinations[row], base)
        rank = (int(is_base), int(agreement.max()), int(nearest.sum()), int(counts[row]))
        if best is None or rank > best[0]:
            best = rank, Change(k, combinations[row], without[nearest], with_[nearest])
    return None if best is None else best[1]


def _pairs(seen: Ints, attribute: int, with_: int, without: int) -> tuple[Ints, Ints]:
    """All pairs of seen combinations with the one and the other category of an attribute, (P, K) each."""
    others = np.delete(np.arange(seen.shape[1]), attribute)
    has, lacks = seen[seen[:, attribute] == with_], seen[seen[:, attribute] == without]
    same = (has[:, None, others] == lacks[None, :, others]).all(axis=2)
    first, second = np.nonzero(same)
    return has[first], lacks[second]


def transferred(
    velocity: Velocity | PreparedVelocity,
    base: Tensor,
    without: Tensor,
    with_: Tensor,
    weight: float | Tensor,
    guidance: float = 1.0,
    log_size_factor: Tensor | None = None,
) -> Callable[[Tensor, float], Tensor]:
    """Build the field g(z, t | base) + w (v(z, t | with) - v(z, t | without)) of a joint network.

    Parameters
    ----------
    velocity : Velocity or PreparedVelocity
    base, without, with_ : (B, K) int64 tensors
        One pair for each cell.
    weight : float or (B,) float32 tensor
        w.
    guidance : float
        Of the base: g = v() + guidance (v(base) - v()).
    log_size_factor : (B,) tensor, optional

    Returns
    -------
    callable (z (B, D), t float) -> (B, D) tensor
        Three evaluations of the network a step, four where `guidance` is not 1.
    """
    terms = [*guided_terms(base, guidance, joint=True), (weight, with_), (-weight, without)]
    return combined(velocity, terms, log_size_factor)


def size_factor_shift(change: Change, combinations: Ints, mean_log: Floats) -> tuple[float, float]:
    """Mean log size factor of the base, and the change of it in the pairs, over which it is a mean.

    Parameters
    ----------
    change : Change
    combinations : (M, K) int64 array
    mean_log : (M,) float64 array
        Mean log size factor of the training cells of each combination.

    Returns
    -------
    float, float
    """
    known = {tuple(row): value for row, value in zip(combinations.tolist(), mean_log.tolist(), strict=True)}
    shifts = [
        known[tuple(there)] - known[tuple(here)]
        for there, here in zip(change.with_.tolist(), change.without.tolist(), strict=True)
    ]
    return known[tuple(change.base.tolist())], float(np.mean(shifts))
