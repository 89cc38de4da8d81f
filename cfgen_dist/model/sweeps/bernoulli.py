"""The Bernoulli law in one pass: nll = sum_p softplus(a_p) - sum over open p of a_p, a_p = logit of peak p + depth.

Its gradient by a_p is sigmoid(a_p) - [p is open]; that by the depth is the sum of these over all peaks.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cfgen_dist.model.sweeps.arithmetic import as_element, clear, exp, load, log1p, total
from cfgen_dist.model.sweeps.blocks import Counts, bits, over_blocks, row_blocks
from data_loaders.types import Array, Floats, Ints


@numba.njit(cache=True, error_model="numpy")
def _softplus_sigmoid(a: Floats, softplus: Floats, sigmoid: Floats) -> None:
    one, zero = np.float32(1.0), np.float32(0.0)
    for p in range(a.size):
        u = exp(-abs(a[p]))
        softplus[p] = max(a[p], zero) + log1p(u)
        small = u / (one + u)  # sigmoid(-|a|): small values keep their digits
        sigmoid[p] = small if a[p] < zero else one - small


@numba.njit(cache=True, error_model="numpy")
def _store(r: Floats, scale: Any, out: Array, d_bias: Floats) -> None:
    for p in range(r.size):
        r[p] = r[p] * scale
        d_bias[p] += r[p]
        out[p] = as_element(r[p], out[p])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _rows(
    start: int, stop: int, logits: Array, depth: Floats, bias: Floats, used: Array, data: Ints, indices: Ints,
    indptr: Ints, scale: Any, d_bias: Floats, loss: Floats,
) -> None:  # fmt: skip
    """Rows [start, stop): their loss (1,), and scale times its gradient in place of logits and depth."""
    n_peaks = logits.shape[1]
    a, softplus, r = np.empty(n_peaks, np.float32), np.empty(n_peaks, np.float32), np.empty(n_peaks, np.float32)
    shifted = np.empty(n_peaks, np.float32)
    for i in range(start, stop):
        if not used[i]:
            clear(logits[i])
            depth[i] = 0
            continue
        for p in range(n_peaks):
            shifted[p] = bias[p] + depth[i]
        load(logits[i], shifted, a)
        _softplus_sigmoid(a, softplus, r)
        nll = total(softplus)
        for j in range(indptr[i], indptr[i + 1]):
            if data[j]:
                nll -= a[indices[j]]
                r[indices[j]] -= np.float32(1.0)
        loss[0] += nll
        _store(r, scale, logits[i], d_bias)
        depth[i] = np.float32(total(r))


def sweep(
    logits: Tensor, depth: Tensor, bias: Tensor, used: Array, counts: Counts, scale: float
) -> tuple[float, Tensor]:
    """Loss of all `used` rows together, and its gradient by the bias; as in the negative binomial's `sweep`.

    `depth` (B,) float32, with its bias, is added to all logits (B, P) of a cell; both are overwritten.
    """
    parts = row_blocks(len(used), 4 * logits.shape[1])
    d_bias, loss = np.zeros((len(parts), logits.shape[1]), np.float32), np.zeros((len(parts), 1))
    shared = (bits(logits), bits(depth), bits(bias), used, *counts, np.float32(scale))
    over_blocks(_rows, parts, shared, (d_bias, loss))
    return float(loss.sum()), torch.from_numpy(d_bias.sum(0))
