"""Guidance: the field that several attributes make together (CFGen, equation 10), and its fast form for sampling."""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cfgen_dist.model.velocity import ABSENT, Block, Velocity


def guided(
    velocity: "Velocity | PreparedVelocity",
    codes: Tensor,
    weights: Sequence[float] | float,
    joint: bool = False,
    log_size_factor: Tensor | None = None,
) -> Callable[[Tensor, float], Tensor]:
    """Build the guided field v(z,t) + sum_i w_i (v(z,t,y_i) - v(z,t)) (CFGen, equation 10).

    Terms with weight zero are not evaluated, nor is the unconditional one when the weights sum to one; the others go
    through the network as one batch.

    Parameters
    ----------
    velocity : Velocity or PreparedVelocity
    codes : (B, K) int64 tensor
        The label of every attribute; that of an attribute with weight zero is ignored.
    weights : sequence of K floats, or one float if `joint`
    joint : bool
        The network was trained on all attributes at once: one weight on the joint label.
    log_size_factor : (B,) tensor, optional

    Returns
    -------
    callable (z (B, D), t float) -> (B, D) tensor
    """
    return combined(velocity, guided_terms(codes, weights, joint), log_size_factor)


def guided_terms(codes: Tensor, weights: Sequence[float] | float, joint: bool = False) -> list[tuple[float, Tensor]]:
    """The terms of the guided field, as (weight, labels that the network sees); see `guided`."""
    terms: list[tuple[float, Tensor]] = []
    if joint:
        terms.append((float(cast(float, weights)), codes))
    else:
        for i, weight in enumerate(cast(Sequence[float], weights)):
            seen = torch.full_like(codes, ABSENT)
            seen[:, i] = codes[:, i]
            terms.append((float(weight), seen))
    terms = [(weight, seen) for weight, seen in terms if weight != 0]
    unconditional = 1.0 - sum(weight for weight, _ in terms)
    if abs(unconditional) > 1e-12 or not terms:
        terms.append((unconditional, torch.full_like(codes, ABSENT)))
    return terms


def combined(
    velocity: "Velocity | PreparedVelocity",
    terms: Sequence[tuple[float | Tensor, Tensor]],
    log_size_factor: Tensor | None,
) -> Callable[[Tensor, float], Tensor]:
    """The weighted sum of velocities under several labels, all of them one batch of the network.

    Parameters
    ----------
    velocity : Velocity or PreparedVelocity
    terms : sequence of (float or (B,) tensor, (B, K) int64 tensor)
        Weight, of all cells or one a cell, and the labels that the network sees.
    log_size_factor : (B,) tensor, optional

    Returns
    -------
    callable (z (B, D), t float) -> (B, D) tensor
    """
    n = len(terms[0][1])
    seen = torch.cat([seen for _, seen in terms])
    of_each = any(isinstance(weight, Tensor) for weight, _ in terms)
    if of_each:
        factors = torch.stack([torch.as_tensor(weight, device=seen.device).expand(n) for weight, _ in terms])
    else:
        factors = torch.tensor([weight for weight, _ in terms], device=seen.device)
    sizes = None if log_size_factor is None else log_size_factor.repeat(len(terms))

    def field(z: Tensor, t: float) -> Tensor:
        time = torch.full((n * len(terms),), t, device=z.device)
        v = velocity(z.repeat(len(terms), 1), time, seen, sizes)
        return torch.einsum("wb,wbd->bd" if of_each else "w,wbd->bd", factors, v.view(len(terms), n, -1))

    return field


class PreparedVelocity:
    """The velocity network for one batch of cells at one time after the other.

    Labels and size factors stay the same over the integration and all cells share one time, so the embedding of the
    former is computed once, that of the latter for one row, and what it adds to all blocks by one matrix product. Equal
    to `Velocity` but for rounding.

    Parameters
    ----------
    velocity : Velocity
        In eval mode.
    """

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.blocks = list(cast(Iterable[Block], velocity.blocks))
        self.weight = torch.cat([block.condition.weight for block in self.blocks])
        self.bias = torch.cat([block.condition.bias for block in self.blocks])
        self.embedded: Tensor | None = None  # what labels and size factors add, (B, E)

    def __call__(self, z: Tensor, t: Tensor, codes: Tensor, log_size_factor: Tensor | None = None) -> Tensor:
        """As `Velocity.forward`, where `t` (B,) holds one value and the rest does not change from call to call."""
        if self.embedded is None:
            self.embedded = self.velocity.add_conditions(self.bias.new_zeros(1), codes, log_size_factor)
        conditions = F.linear(F.silu(self.embedded + self.velocity.time(t[:1])), self.weight, self.bias)
        x = self.velocity.enter(z)
        for block, condition in zip(self.blocks, conditions.chunk(len(self.blocks), 1), strict=True):
            x = block.step(x, condition)
        v: Tensor = self.velocity.leave(F.silu(x))
        return v
