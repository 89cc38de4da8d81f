"""A training step's two large layers on CPUs: counts into the first, the likelihood out of the last.

Both are autograd functions of parameters that stand where they always stood, so optimisers, process groups and
checkpoints see no difference. With `half`, the products of these layers are of bfloat16 numbers, added up in float32:
several times as fast on some processors, slower on others (`half_is_faster`).

The last layer's gradient is made in the forward pass, over the logits themselves (`Likelihood.sweep`), so one matrix
of cells x genes is all that a step holds of it.
"""

import os
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cfgen_dist.model.likelihoods.likelihood import Likelihood
from cfgen_dist.model.sweeps.arithmetic import as_element
from cfgen_dist.model.sweeps.blocks import Counts, bits, over_blocks, row_blocks
from data_loaders.types import Array, Floats, Ints

TABLE = 1 << 16  # counts below it are looked up


def half_is_faster() -> bool:
    """Whether this processor multiplies bfloat16 numbers faster than float32.

    That is so where it has tiles for it (AMX; Intel since 2023), and on AMD's with AVX512-BF16 (measured on Zen 5:
    3.5 times). On Intel's with AVX512-BF16 but without AMX it is slower. oneDNN, which multiplies, may have been told
    to do without.
    """
    told = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    tiles = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    if tiles:
        return "AMX" in told or told in ("ALL", "DEFAULT")
    return "AuthenticAMD" in _about_processor() and told in ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16")


def _about_processor() -> str:
    """What Linux says of a processor with AVX512-BF16; nothing of another one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return text if "avx512_bf16" in text else ""


def seen(counts: Counts, n_features: int, size_factor: Floats, kind: str, dropout: float, half: bool) -> Tensor:
    """What an encoder sees of counts, dense, with input dropout.

    Dropping a zero changes nothing, so random numbers are drawn for counted entries alone.

    Parameters
    ----------
    counts : Counts
        Of B cells.
    n_features : int
    size_factor : (B,) float32 array
    kind : str
        One of `cfgen_dist.model.autoencoder.INPUTS`.
    dropout : float
        Share of entries that become zero; the others are divided by one minus it.
    half : bool
        bfloat16 in place of float32.

    Returns
    -------
    (B, n_features) tensor
    """
    values = _values(counts, size_factor, kind)
    if dropout:
        kept = torch.empty(len(values), dtype=torch.uint8).bernoulli_(1 - dropout).numpy()
        values *= kept * np.float32(1 / (1 - dropout))
    n_cells = len(counts.indptr) - 1
    out = torch.empty(n_cells, n_features, dtype=torch.bfloat16 if half else torch.float32)
    over_blocks(_scatter, row_blocks(n_cells, 0), (values, counts.indices, counts.indptr, bits(out)), ())
    return out


def _values(counts: Counts, size_factor: Floats, kind: str) -> Floats:
    """What the encoder sees of each counted entry, (nnz,) float32; a new array."""
    data, values = counts.data, counts.data.astype(np.float32)
    if kind == "binary":
        return np.minimum(values, 1, out=values)
    if kind == "log1p" and len(data) and data.max() < TABLE:
        table: Floats = np.log1p(np.arange(data.max() + 1, dtype=np.float32))
        return table[data]
    if kind != "log1p":
        values /= np.repeat(np.maximum(size_factor, np.float32(1)), np.diff(counts.indptr))
    if kind == "log1p_cp10k":
        values *= np.float32(1e4)
    return values if kind == "proportions" else np.log1p(values, out=values)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _scatter(start: int, stop: int, values: Floats, indices: Ints, indptr: Ints, out: Array) -> None:
    for i in range(start, stop):
        row = out[i]
        row[:] = 0
        for j in range(indptr[i], indptr[i + 1]):
            row[indices[j]] = as_element(values[j], row[indices[j]])


def first_layer(x: Tensor, layer: nn.Linear) -> Tensor:
    """layer(x) (B, H) in float32, of x (B, F) as `seen` makes it."""
    if x.dtype == torch.float32:
        return nn.functional.linear(x, layer.weight, layer.bias)
    output: Tensor = _HalfProduct.apply(x, layer.weight) + layer.bias
    return output


class _HalfProduct(torch.autograd.Function):
    """x W^T of a bfloat16 x that needs no gradient and a float32 W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x @ weight.bfloat16().t()).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, (gradient.bfloat16().t() @ x).float()


def likelihood_loss(
    hidden: Tensor, layer: nn.Linear, log_theta: Tensor | None, law: Likelihood, lines: Ints, size_factor: Floats,
    counts: Counts, n_features: int, half: bool,
) -> Tensor:  # fmt: skip
    """The loss of the decoder's last layer: nats of the cells together, divided by the number of all B.

    Parameters
    ----------
    hidden : (B, H) float32 tensor
        What the layer is given.
    layer : nn.Linear
        From H to the likelihood's n_outputs.
    log_theta : (C, F) tensor, or None
    law : Likelihood
        One with a sweep.
    lines, size_factor, counts
        As `Likelihood.sweep` takes them.
    n_features : int
        F.
    half : bool
        Whether the products are of bfloat16 numbers.

    Returns
    -------
    scalar tensor
    """
    about = (law, lines, size_factor, counts, n_features, half, torch.is_grad_enabled())
    loss: Tensor = _Head.apply(hidden, layer.weight, layer.bias, log_theta, about)
    return loss


class _Head(torch.autograd.Function):
    """Product, likelihood and their gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, log_theta: Tensor | None, about: tuple[Any, ...]
    ) -> Tensor:
        law, lines, size_factor, counts, n_features, half, wanted = about
        with torch.autocast("cpu", enabled=False):
            to = torch.bfloat16 if half else torch.float32
            h, w, others = hidden.to(to), weight[:n_features].to(to), weight[n_features:]
            logits, further = h @ w.t(), hidden @ others.t()
            scale = 1 / max(len(hidden), 1)
            loss, d_bias, d_log_theta = law.sweep(logits, further, bias, log_theta, lines, size_factor, counts, scale)
            if wanted:
                d_weight, d_hidden = (logits.t() @ h).float(), (logits @ w).float()
                if len(others):
                    d_weight = torch.cat([d_weight, further.t() @ hidden])
                    d_hidden = d_hidden + further @ others
                ctx.save_for_backward(d_hidden, d_weight, d_bias, *([] if d_log_theta is None else [d_log_theta]))
        return hidden.new_tensor(loss * scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        made = list(ctx.saved_tensors)
        if gradient != 1:
            made = [each * gradient for each in made]
        d_hidden, d_weight, d_bias, *d_log_theta = made
        return d_hidden, d_weight, d_bias, d_log_theta[0] if d_log_theta else None, None
