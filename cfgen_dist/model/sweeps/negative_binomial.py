"""The negative binomial in one pass: loss, gradient by logits, and gradient by log theta.

With logits s, size factor l, a_g = log l + s_g - logsumexp(s) - log theta_g and counts x, most of them zero,

    nll = sum_g theta_g softplus(a_g) - sum over counted g of
          lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) + x logsigmoid(a_g)
    r_g = (theta_g + x_g) sigmoid(a_g) - x_g,                        d nll / d s_j = r_j - softmax_j(s) sum_g r_g
    d nll / d log theta_g = theta_g [softplus(a_g) - sigmoid(a_g)] + x_g [1 - sigmoid(a_g)]
                            - theta_g [digamma(x + theta) - digamma(theta)]  (the last at counted genes alone)

and with u = l exp(s - max s) / (Z theta): softplus = log1p(u), sigmoid = u / (1 + u). At counted genes a is computed
from the logit itself: u underflows where the model thinks a gene impossible. Differences of lgamma and digamma lose
the digits of a float32, so they are sums over k < x of log(theta + k) and 1 / (theta + k) in float64: counts up to
`SMALL` are only counted, in a histogram for each gene, and the sums are made once at the end.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cfgen_dist.model.sweeps.arithmetic import (
    clear,
    digamma,
    exponentials,
    largest,
    load,
    log1p,
    store_softmax_gradient,
    total,
)  # fmt: skip
from cfgen_dist.model.sweeps.blocks import Counts, bits, over_blocks, row_blocks
from data_loaders.types import Array, Floats, Ints

SMALL = 6


@numba.njit(cache=True, error_model="numpy")
def _softplus_sigmoid(c: Any, e: Floats, inverse: Floats, softplus: Floats, sigmoid: Floats) -> None:
    for g in range(e.size):
        u = c * inverse[g] * e[g]
        softplus[g] = log1p(u)
        sigmoid[g] = u / (np.float32(1.0) + u)


@numba.njit(cache=True, error_model="numpy")
def _times_theta(theta: Floats, softplus: Floats, r: Floats, d_theta: Floats, terms: Floats) -> None:
    for g in range(r.size):
        d_theta[g] += softplus[g] - r[g]
        r[g] = theta[g] * r[g]
        terms[g] = theta[g] * softplus[g]


@numba.njit(cache=True, error_model="numpy")
def _dense(
    c: Any, e: Floats, inverse: Floats, theta: Floats, softplus: Floats, r: Floats, d_theta: Floats, terms: Floats
) -> tuple[float, float]:
    """The terms that every gene has: returns their loss and the sum of r."""
    _softplus_sigmoid(c, e, inverse, softplus, r)
    _times_theta(theta, softplus, r, d_theta, terms)
    return total(terms), total(r)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _rows(
    start: int, stop: int, logits: Array, bias: Floats, log_theta: Floats, theta: Floats, inverse: Floats, lines: Ints,
    log_size: Floats, data: Ints, indices: Ints, indptr: Ints, scale: Any, d_bias: Floats, d_theta: Floats,
    at_counts: Floats, histogram: Ints, loss: Floats,
) -> None:  # fmt: skip
    """Rows [start, stop): their loss, but for what is in the histogram, and scale times its gradient.

    `log_theta`, `theta`, `inverse` (1 / theta), `d_theta`, `at_counts` are (C, G), `histogram` is (C, G, SMALL): row i
    uses line `lines[i]` and adds to it; with a line below zero it is left out. `loss` (1,).
    """
    n_genes = logits.shape[1]
    s, e = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    softplus, r = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    terms = np.empty(n_genes, np.float32)
    for i in range(start, stop):
        line = lines[i]
        if line < 0:
            clear(logits[i])
            continue
        load(logits[i], bias, s)
        top = largest(s)
        z = exponentials(s, top, e)
        c = np.float32(math.exp(np.float64(log_size[i])) / z)
        nll, r_sum = _dense(c, e, inverse[line], theta[line], softplus, r, d_theta[line], terms)
        shift = np.float32(np.float64(log_size[i]) - np.float64(top) - math.log(z))
        for j in range(indptr[i], indptr[i + 1]):
            g, x = np.int64(indices[j]), np.int64(data[j])
            if x == 0:  # stored all the same
                continue
            count = np.float32(x)
            more = -count / (np.float32(1.0) + c * inverse[line, g] * e[g])
            r[g] += more
            r_sum += more
            at_counts[line, g] -= more
            nll -= count * (s[g] + shift - log_theta[line, g] - softplus[g])
            if x <= SMALL:
                histogram[line, g, x - 1] += 1
            else:
                t = np.float64(theta[line, g])
                nll -= math.lgamma(x + t) - math.lgamma(t) - math.lgamma(x + 1.0)
                at_counts[line, g] -= t * (digamma(x + t) - digamma(t))
        loss[0] += nll
        store_softmax_gradient(r, e, np.float32(r_sum / z), scale, logits[i], d_bias)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _finish(log_theta: Floats, d_theta: Floats, at_counts: Floats, histogram: Ints, scale: Any, out: Floats) -> float:
    """Fill out (C, G) with scale times the gradient by log theta; returns the loss of the counts in the histogram."""
    loss = 0.0
    for line in range(log_theta.shape[0]):
        for g in range(log_theta.shape[1]):
            t = math.exp(np.float64(log_theta[line, g]))
            gradient = t * d_theta[line, g] + at_counts[line, g]
            logs = inverses = factorial = 0.0
            for k in range(SMALL):
                logs += math.log(t + k)
                inverses += 1.0 / (t + k)
                factorial += math.log(k + 1.0)
                n = histogram[line, g, k]
                if n:
                    loss -= n * (logs - factorial)
                    gradient -= n * t * inverses
            out[line, g] = scale * gradient
    return loss


def sweep(
    logits: Tensor, bias: Tensor, log_theta: Tensor, lines: Ints, size_factor: Floats, counts: Counts, scale: float
) -> tuple[float, Tensor, Tensor]:
    """Loss of all rows together; the logits become scale times its gradient.

    Parameters
    ----------
    logits : (B, G) float32 or bfloat16 tensor, contiguous
        Without the bias; overwritten.
    bias : (G,) float32 tensor
    log_theta : (C, G) float32 tensor
    lines : (B,) int64 array
        The line of `log_theta` of each cell; -1 leaves a cell out.
    size_factor : (B,) float32 array
    counts : Counts
        Of the B cells.
    scale : float

    Returns
    -------
    loss : float
        Nats, summed over cells and genes.
    d_bias : (G,) tensor
    d_log_theta : (C, G) tensor
        scale times the gradients.
    """
    logs = np.ascontiguousarray(bits(log_theta), np.float32)
    theta = np.exp(logs)
    parts = row_blocks(len(lines), logs.size * 36)
    d_bias = np.zeros((len(parts), logs.shape[1]), np.float32)
    d_theta, at_counts = (np.zeros((len(parts), *logs.shape), kind) for kind in (np.float32, np.float64))
    histogram, loss = np.zeros((len(parts), *logs.shape, SMALL), np.int32), np.zeros((len(parts), 1))
    log_size = np.log(np.maximum(size_factor, 1.0)).astype(np.float32)
    over_blocks(_rows, parts, (
        bits(logits), bits(bias), logs, theta, 1 / theta, lines, log_size, *counts, np.float32(scale),
    ), (d_bias, d_theta, at_counts, histogram, loss))  # fmt: skip
    d_log_theta = np.empty_like(logs)
    in_histogram = _finish(
        logs, d_theta.sum(0, dtype=np.float64), at_counts.sum(0), histogram.sum(0), scale, d_log_theta
    )
    return float(loss.sum()) + in_histogram, torch.from_numpy(d_bias.sum(0)), torch.from_numpy(d_log_theta)
