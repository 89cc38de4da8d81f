"""The Poisson law in one pass: nll = l - sum over counted g of x log mu_g - lgamma(x + 1), mu the softmax times l.

Its gradient by logits is softmax_j(s) sum_g x_g - x_j: as mu sums to the size factor l, l itself drops out.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cfgen_dist.model.sweeps.arithmetic import clear, exponentials, largest, load, store_softmax_gradient
from cfgen_dist.model.sweeps.blocks import Counts, bits, over_blocks, row_blocks
from data_loaders.types import Array, Floats, Ints


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _rows(
    start: int, stop: int, logits: Array, bias: Floats, used: Array, log_size: Floats, data: Ints, indices: Ints,
    indptr: Ints, scale: Any, d_bias: Floats, loss: Floats,
) -> None:  # fmt: skip
    """Rows [start, stop): their loss (1,), and scale times its gradient in place of the logits."""
    n_genes = logits.shape[1]
    s, e, r = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32), np.zeros(n_genes, np.float32)
    for i in range(start, stop):
        if not used[i]:
            clear(logits[i])
            continue
        load(logits[i], bias, s)
        top = largest(s)
        z = exponentials(s, top, e)
        shift = np.float64(log_size[i]) - np.float64(top) - math.log(z)
        nll, total = math.exp(np.float64(log_size[i])), 0.0
        for j in range(indptr[i], indptr[i + 1]):
            g, x = np.int64(indices[j]), np.float64(data[j])
            r[g] = -np.float32(x)
            total += x
            nll += math.lgamma(x + 1.0) - x * (s[g] + shift)
        loss[0] += nll
        store_softmax_gradient(r, e, np.float32(-total / z), scale, logits[i], d_bias)
        for j in range(indptr[i], indptr[i + 1]):
            r[indices[j]] = np.float32(0.0)


def sweep(
    logits: Tensor, bias: Tensor, used: Array, size_factor: Floats, counts: Counts, scale: float
) -> tuple[float, Tensor]:
    """Loss of all `used` rows together, and its gradient by the bias; as in the negative binomial's `sweep`."""
    parts = row_blocks(len(used), 4 * logits.shape[1])
    d_bias, loss = np.zeros((len(parts), logits.shape[1]), np.float32), np.zeros((len(parts), 1))
    log_size = np.log(np.maximum(size_factor, 1.0)).astype(np.float32)
    over_blocks(_rows, parts, (bits(logits), bits(bias), used, log_size, *counts, np.float32(scale)), (d_bias, loss))
    return float(loss.sum()), torch.from_numpy(d_bias.sum(0))
