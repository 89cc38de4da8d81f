"""Label combinations that no training cell had: found in a request, said, and made the best way the model knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cfgen_dist.generation.weights import guided_field, is_joint
from cfgen_dist.model.guidance import PreparedVelocity
from cfgen_dist.model.solvers import integrate
from cfgen_dist.model.transfer import FEW, USUAL_WEIGHT, Change, Lesson, find_change, size_factor_shift, transferred
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Bools, Floats, Ints

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

log = logging.getLogger("cfgen_dist")
WAYS = ("transfer", "compose", "refuse")
SHOWN = 3  # combinations named in a message
Codes = tuple[int, ...]


@dataclass(frozen=True)
class Borrowed:
    """What the cells of a batch borrow, a row each; see `cfgen_dist.model.transfer`.

    Attributes
    ----------
    borrows : bool (n,)
        Whether a cell borrows at all: it is of a combination that was never seen. The rest counts for these alone.
    base, without, with_ : (n, K) int64 arrays
    weight : (n,) float64 array
    log_scale : (n,) float64 array
        Added to the log size factor that is drawn by the labels wanted; 0 for the other cells.
    log_change : (n,) float64 array
        Added to the log size factor of a cell that is translated: its change in the pairs; 0 for the other cells.
    """

    borrows: Bools
    base: Ints
    without: Ints
    with_: Ints
    weight: Floats
    log_scale: Floats
    log_change: Floats

    def take(self, rows: slice | Bools) -> Borrowed:
        """Some of the cells."""
        return Borrowed(*(getattr(self, each.name)[rows] for each in fields(self)))


class Lender:
    """The seen combinations of a model, and what they lend to those that were not.

    Parameters
    ----------
    model : TrainedModel
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self.combinations, self.counts = model.observed()
        self.known: dict[Codes, int] = dict(
            zip(map(tuple, self.combinations.tolist()), self.counts.tolist(), strict=True)
        )
        self._changes: dict[tuple[Codes, Codes | None], Change | None] = {}

    def change(self, wanted: Codes, before: Codes | None = None) -> Change | None:
        """The change for a combination that was never seen; None for one that was, or that nothing can be lent to."""
        if wanted in self.known or min(wanted, default=-1) < 0 or not is_joint(self.model):
            return None
        key = wanted, before
        if key not in self._changes:
            base = None if before is None else np.asarray(before)
            self._changes[key] = find_change(np.asarray(wanted), self.combinations, self.counts, base)
        return self._changes[key]

    def lesson(self, wanted: Codes, change: Change) -> Lesson | None:
        """What was learned of this change: of the category wanted, else of its attribute, else None."""
        name = list(self.model.labels)[change.attribute]
        category = self.model.labels[name][wanted[change.attribute]]
        return self.model.transfer.get(f"{name}={category}") or self.model.transfer.get(name)

    def weight(self, wanted: Codes, change: Change) -> float:
        """The weight of a change."""
        lesson = self.lesson(wanted, change)
        return USUAL_WEIGHT if lesson is None else lesson.weight

    def borrow(self, codes: Ints, uniform: Floats, before: Ints | None = None) -> Borrowed:
        """What cells borrow.

        Parameters
        ----------
        codes : (n, K) int64 array
            Labels wanted.
        uniform : (n,) float64 array
            In [0, 1): which pair of seen combinations lends its change to each cell.
        before : (n, K) int64 array, optional
            Labels of cells that are translated: the base where that is possible.

        Returns
        -------
        Borrowed
        """
        n, k = codes.shape
        base, without, with_ = (np.zeros((n, k), np.int64) for _ in range(3))
        lent = Borrowed(np.zeros(n, bool), base, without, with_, *(np.zeros(n) for _ in range(3)))
        for i, wanted in enumerate(map(tuple, codes.tolist())):
            change = self.change(wanted, None if before is None else tuple(before[i].tolist()))
            if change is not None:
                pair = int(uniform[i] * len(change.with_))
                lent.borrows[i] = True
                lent.base[i], lent.without[i], lent.with_[i] = change.base, change.without[pair], change.with_[pair]
                lent.weight[i] = self.weight(wanted, change)
                lent.log_scale[i], lent.log_change[i] = self._log_sizes(wanted, change)
        return lent

    def _log_sizes(self, wanted: Codes, change: Change) -> tuple[float, float]:
        """What is added to log size factors: to the law's, of the labels wanted, and to those of cells of the base."""
        if self.model.mean_log_size is None:
            return 0.0, 0.0
        whole = (self.model.combinations >= 0).all(axis=1)
        base, shift = size_factor_shift(change, self.combinations, self.model.mean_log_size[whole])
        law = self.model.size_factor
        category = wanted[list(self.model.labels).index(law.covariate)] if law.covariate else 0
        return base + shift - float(law.mean[category]), shift


def choose_way(model: TrainedModel, asked: Ints, cells: Ints, unseen: str | None) -> str:
    """How combinations without a training cell are made; says which they are, and how well it did where it was tried.

    Parameters
    ----------
    model : TrainedModel
    asked : (M, K) int64 array
        Label combinations of a request.
    cells : (M,) int64 array
        How many cells are asked for of each.
    unseen : {"transfer", "compose", "refuse"} or None
        None is "transfer" where the model can do that, else "compose".

    Returns
    -------
    {"transfer", "compose"}
        "compose" too where every combination was seen: nothing is left to choose.

    Raises
    ------
    BadInput
        There are such combinations and they are refused, or shall be transferred and cannot be.
    """
    check_way(unseen)
    lender = Lender(model)
    asked = np.unique(asked[(cells > 0) & (asked >= 0).all(axis=1)], axis=0)
    missing = [row for row in map(tuple, asked.tolist()) if row not in lender.known]
    rare = [row for row in map(tuple, asked.tolist()) if 0 < lender.known.get(row, 0) < FEW]
    if rare:
        log.info("fewer than %d training cells were %s: expect little of these", FEW, _named(model, rare, lender.known))
    if not missing or asked.shape[1] < 2:
        return "compose"
    named = _named(model, missing)
    if unseen == "refuse":
        raise BadInput(f"no training cell was {named}; `unseen` is refuse, expected combinations that were seen")
    why_not = _why_not(lender, missing)
    if unseen is None and why_not is None and _is_useless(lender, missing):
        why_not = "seen combinations that were left out in turn came no nearer by it"
    if unseen != "compose" and why_not is None:
        log.warning("no training cell was %s: %s", named, _told(lender, missing))
        return "transfer"
    if unseen == "transfer":
        raise BadInput(f"no training cell was {named}, and `unseen=transfer` cannot make them: {why_not}")
    log.warning(
        "no training cell was %s: made by the guidance of each label, whose sum was never trained and may be far from "
        "real cells%s", named, f"; not by transfer: {why_not}" if why_not else "",
    )  # fmt: skip
    return "compose"


def carry(
    model: TrainedModel,
    weights: Sequence[float],
    codes: Ints,
    log_size_factor: torch.Tensor,
    lent: Borrowed | None,
    z: torch.Tensor,
    **how: Any,
) -> torch.Tensor:
    """Integrate the guided field of labels, and for cells of combinations never seen the transferred one.

    Parameters
    ----------
    model : TrainedModel
    weights : sequence of float
        Guidance, as plans keep it.
    codes : (B, K) int64 array
    log_size_factor : (B,) tensor
    lent : Borrowed, optional
    z : (B, D) tensor
        Where the integration starts.
    **how
        As in `cfgen_dist.model.solvers.integrate`.

    Returns
    -------
    (B, D) tensor
    """

    def tensor(array: Ints) -> torch.Tensor:
        return torch.from_numpy(array).to(z.device)

    if lent is None or not lent.borrows.any():
        return integrate(guided_field(model, weights, tensor(codes), log_size_factor), z, **how)
    carried = torch.empty_like(z)
    for rows in filter(np.any, (~lent.borrows, lent.borrows)):
        which, of = torch.from_numpy(rows).to(z.device), lent.take(rows)
        if of.borrows.any():
            field = transferred(
                PreparedVelocity(model.velocity), tensor(of.base), tensor(of.without), tensor(of.with_),
                tensor(of.weight.astype(np.float32)), weights[0], log_size_factor[which],
            )  # fmt: skip
        else:
            field = guided_field(model, weights, tensor(codes[rows]), log_size_factor[which])
        carried[which] = integrate(field, z[which], **how)
    return carried


def check_way(unseen: str | None) -> None:
    """Raise `BadInput` for a way that there is not."""
    if unseen is not None and unseen not in WAYS:
        raise BadInput(f"`unseen`: unknown way {unseen!r}, {nearest(unseen, WAYS)}")


def _why_not(lender: Lender, missing: list[Codes]) -> str | None:
    """Why combinations cannot be transferred; None when all can be."""
    if not is_joint(lender.model):
        return "the network saw one label at a time; train with flow.conditioning joint"
    alone = [row for row in missing if lender.change(row) is None]
    if not alone:
        return None
    return (
        f"nothing that was seen with {FEW} cells or more shows how a label changes "
        f"{_named(lender.model, alone)} from a combination that differs from it in one label"
    )


def _is_useless(lender: Lender, missing: list[Codes]) -> bool:
    """Whether transfer was tried for one of these changes, and did harm."""
    found = ((row, lender.change(row)) for row in missing)
    lessons = [lender.lesson(row, change) for row, change in found if change is not None]
    return any(lesson is not None and lesson.way <= 0 for lesson in lessons)


def _told(lender: Lender, missing: list[Codes]) -> str:
    """How combinations are made by transfer, and how well that did; of the first one, which stands for the rest."""
    model, wanted = lender.model, missing[0]
    change = lender.change(wanted)
    assert change is not None
    name = list(model.labels)[change.attribute]
    here, there = (model.labels[name][codes[change.attribute]] for codes in (change.base, wanted))
    n = len(change.with_)
    lesson = lender.lesson(wanted, change)
    how = (
        f"made from {name}={here} by what {name}={there} changes in {n} other combination{'s' * (n > 1)} "
        f"(weight {lender.weight(wanted, change):g}"
    )
    if lesson is None:
        how += ", not measured on this model)"
    else:
        way = f"{max(lesson.way, 0):.0%} of the way to the real ones"
        how += f"; {lesson.combinations} seen combinations, left out in turn, came {way})"
    return how + (f"; the other {len(missing) - 1:,} likewise" if len(missing) > 1 else "")


def _named(model: TrainedModel, rows: list[Codes], numbers: dict[Codes, int] | None = None) -> str:
    """Combinations in words: the first few, and how many more."""
    words = []
    for row in rows[:SHOWN]:
        text = ", ".join(
            f"{name}={categories[code]}" for code, (name, categories) in zip(row, model.labels.items(), strict=True)
        )
        words.append(f"{text} ({numbers[row]})" if numbers else text)
    more = len(rows) - SHOWN
    return "; ".join(words) + (f"; and {more:,} more" if more > 0 else "")
