"""Batch normalisation over the batches of all ranks together, on any device.

Statistics of each rank's own part would make the model depend on the number of workers: a batch of 128 cells on 8
workers would be normalised by 16, and the running statistics kept would be those of rank 0 alone. Here every rank uses
the mean and variance of all 128, so gradients and running statistics are those of one process with the whole batch.
`torch.nn.SyncBatchNorm` does the same on GPUs only; this one also serves gloo, so tests without GPUs test what GPUs
run. The price is an all-reduce of 2 F + 1 numbers a layer, and another one in the backward pass.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks; each rank's gradient is the sum of all ranks' gradients of that sum."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class RanksBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose training batch is that of all ranks (B over all ranks, F)."""

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, F), B on this rank."""
        if not self.training:
            return super().forward(x)
        exact = x.double()  # the variance is a difference of sums
        ones = exact.new_full((1,), len(x))
        total: torch.Tensor = _SumOverRanks.apply(torch.cat([ones, exact.sum(dim=0), exact.square().sum(dim=0)]))
        n, (sums, squares) = total[0], total[1:].chunk(2)
        enough = n > 1  # one cell, or none with this modality, has no variance: the running statistics serve
        mean = sums / n.clamp_min(1)
        variance = (squares / n.clamp_min(1) - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += enough
            rate = enough.to(self.running_mean.dtype) * self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
            unbiased = variance * n / (n - 1).clamp_min(1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        mean = torch.where(enough, mean, self.running_mean.double())
        variance = torch.where(enough, variance, self.running_var.double())
        y = (x.float() - mean.float()) * (variance + self.eps).rsqrt().float()
        return (y if self.weight is None else y * self.weight + self.bias).to(x.dtype)


def over_all_ranks(module: nn.Module) -> None:
    """Replace every BatchNorm1d inside `module` by one that sees all ranks; parameters and buffers are kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d):
            new = RanksBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            for kept in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(new, kept, getattr(child, kept))
            setattr(module, name, new)
        else:
            over_all_ranks(child)
