"""The flow-matching loss, and the attributes that a training step hides (CFGen, 4.3 and C.2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cfgen_dist.model.velocity import ABSENT, Velocity


def drop_attributes(codes: Tensor, p_cond: float, joint: bool, generator: torch.Generator | None = None) -> Tensor:
    """Hide attributes per cell, for classifier-free guidance.

    With probability `p_cond` a cell keeps exactly one attribute, drawn uniformly among those that it has, else none;
    with `joint` it keeps all that it has, else none.

    Parameters
    ----------
    codes : (B, K) int64 tensor
        `ABSENT` where a cell does not have an attribute.
    p_cond : float
    joint : bool
    generator : torch.Generator, optional

    Returns
    -------
    (B, K) int64 tensor
    """
    n, k = codes.shape
    drawn = torch.rand(n, 1, device=codes.device, generator=generator)
    seen = drawn < p_cond
    if not joint and k > 1:
        kept = torch.randint(k, (n, 1), device=codes.device, generator=generator)
        seen = seen & _is_kept(codes != ABSENT, kept, drawn / max(p_cond, 1e-12))
    return torch.where(seen, codes, ABSENT)


def _is_kept(has: Tensor, kept: Tensor, uniform: Tensor) -> Tensor:
    """Which attribute each cell keeps, bool (B, K): number `kept` (B, 1) of a cell that `has` (B, K) them all.

    A cell that lacks some keeps one of the others, chosen by `uniform` (B, 1): what was drawn to see whether it keeps
    one is, where it does, uniform below 1. No further draw, and no look at the values: both would cost a batch of
    complete cells something.
    """
    k = has.shape[1]
    number = has.sum(dim=1, keepdim=True)
    among = (uniform.clamp(0, 1) * number).long().clamp_max(number - 1)
    of_some = has & (has.cumsum(dim=1) - 1 == among)
    return torch.where(number == k, torch.arange(k, device=has.device) == kept, of_some)


def flow_matching_loss(
    velocity: Velocity,
    z1: Tensor,
    codes: Tensor,
    log_size_factor: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared error between the velocity and z_1 - z_0 at z_t = (1 - t) z_0 + t z_1.

    t is stratified over the batch: one uniform draw in each of B equal intervals, in random order.

    Parameters
    ----------
    velocity : Velocity
    z1 : (B, D) tensor
        Latents of cells.
    codes : (B, K) int64 tensor
    log_size_factor : (B,) tensor, optional
    generator : torch.Generator, optional

    Returns
    -------
    scalar tensor
    """
    n = z1.shape[0]
    z0 = torch.randn(z1.shape, device=z1.device, generator=generator)
    strata = torch.randperm(n, device=z1.device, generator=generator)
    t = (strata + torch.rand(n, device=z1.device, generator=generator)) / n
    zt = (1 - t[:, None]) * z0 + t[:, None] * z1
    return F.mse_loss(velocity(zt, t, codes, log_size_factor), z1 - z0)
