"""Functions of single numbers and rows that the compiler can turn into vector instructions.

NumPy's and the C library's exp and log1p are calls, one number at a time, inside a compiled loop. These polynomials
(Cephes, single precision) are not: a loop over them runs in vector registers. Numbers in bfloat16 travel as the uint16
of their bits, which Numba knows.

No "fast math" is allowed: what the compiler then makes of a loop depends on what it finds compiled already, so that the
first process after an installation would get other last digits than those that follow. Maps are vectorised without it;
sums are written as `LANES` sums side by side, whose order is fixed. Divisions are not checked (`error_model="numpy"`),
because a branch stops the vectorisation.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

from data_loaders.types import Array, Floats

LANES = 64
_f = np.float32
_i = np.int32


@numba.njit(cache=True, error_model="numpy")
def exp(x: Any) -> Any:
    """e^x in float32, of x <= 88; 1.6e-38 below -87."""
    x = max(x, _f(-87.0))
    n = np.floor(x * _f(1.44269504088896341) + _f(0.5))
    r = x - n * _f(0.693359375)
    r = r - n * _f(-2.12194440e-4)
    p = _f(1.9875691500e-4)
    p = p * r + _f(1.3981999507e-3)
    p = p * r + _f(8.3334519073e-3)
    p = p * r + _f(4.1665795894e-2)
    p = p * r + _f(1.6666665459e-1)
    p = p * r + _f(5.0000001201e-1)
    p = p * r * r + r + _f(1.0)
    return p * _i(_i(_i(n) + _i(127)) << _i(23)).view(np.float32)


@numba.njit(cache=True, error_model="numpy")
def log1p(u: Any) -> Any:
    """log(1 + u) in float32, of u >= 0; exact to the last digits for small u too."""
    bits = _f(_f(1.0) + u).view(np.int32)
    k = _i(_i(bits - _i(0x3F3504F3)) >> _i(23))  # (1 + u) 2^-k lies in [sqrt 0.5, sqrt 2)
    scale = _i(_i(_i(127) - k) << _i(23)).view(np.float32)  # 2^-k
    f = u * scale + (scale - _f(1.0))
    e = _f(k)
    z = f * f
    y = _f(7.0376836292e-2)
    y = y * f - _f(1.1514610310e-1)
    y = y * f + _f(1.1676998740e-1)
    y = y * f - _f(1.2420140846e-1)
    y = y * f + _f(1.4249322787e-1)
    y = y * f - _f(1.6668057665e-1)
    y = y * f + _f(2.0000714765e-1)
    y = y * f - _f(2.4999993993e-1)
    y = y * f + _f(3.3333331174e-1)
    y = y * f * z
    y = y - e * _f(2.12194440e-4) - _f(0.5) * z
    return f + y + e * _f(0.693359375)


@numba.njit(cache=True, error_model="numpy")
def digamma(x: float) -> float:
    """The derivative of lgamma, in float64, of x > 0: recurrence up to 8, then its asymptotic series."""
    below = 0.0
    while x < 8.0:
        below -= 1.0 / x
        x += 1.0
    i = 1.0 / x
    j = i * i
    series = j * (1 / 12.0 - j * (1 / 120.0 - j * (1 / 252.0 - j * (1 / 240.0 - j / 132.0))))
    return below + math.log(x) - 0.5 * i - series


@numba.njit(cache=True, error_model="numpy")
def from_bfloat16(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return _i(_i(bits) << _i(16)).view(np.float32)


@numba.njit(cache=True, error_model="numpy")
def to_bfloat16(x: Any) -> Any:
    """The bits of the nearest bfloat16, the even one of two."""
    bits = _f(x).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))


def as_float(x: Any) -> Any:
    """The float32 of an element of a float32 or a bfloat16 (uint16) array; in compiled code only."""
    raise NotImplementedError


def as_element(x: Any, old: Any) -> Any:
    """A float32 as an element of an array that holds `old`; in compiled code only."""
    raise NotImplementedError


# Numba compares the signatures of an overload and of what it returns, annotations included: a lambda has none.
_of_bfloat16 = (lambda x: from_bfloat16(x), lambda x, old: to_bfloat16(x))
_of_float = (lambda x: x, lambda x, old: x)
overload(as_float, inline="always")(lambda x: (_of_bfloat16 if x == types.uint16 else _of_float)[0])
overload(as_element, inline="always")(lambda x, old: (_of_bfloat16 if old == types.uint16 else _of_float)[1])


@numba.njit(cache=True, error_model="numpy")
def load(source: Array, bias: Floats, row: Floats) -> None:
    """Fill the row (F,), float32, with the source (F,), of either type, plus the bias."""
    for g in range(row.size):
        row[g] = as_float(source[g]) + bias[g]


@numba.njit(cache=True, error_model="numpy")
def _larger(lanes: Floats, values: Floats) -> None:
    for j in range(LANES):
        a, b = lanes[j], values[j]
        lanes[j] = b if b > a else a


@numba.njit(cache=True, error_model="numpy")
def largest(row: Floats) -> Any:
    """The maximum of a row; by lanes, since the compiler does not vectorise a plain search."""
    lanes = np.full(LANES, _f(-3e38), np.float32)
    whole = row.size // LANES * LANES
    for k in range(0, whole, LANES):
        _larger(lanes, row[k : k + LANES])
    found = _f(-3e38)
    for j in range(LANES):
        found = max(found, lanes[j])
    for k in range(whole, row.size):
        found = max(found, row[k])
    return found


@numba.njit(cache=True, error_model="numpy")
def _add(lanes: Floats, values: Floats) -> None:
    for j in range(LANES):
        lanes[j] += values[j]


@numba.njit(cache=True, error_model="numpy")
def total(row: Floats) -> float:
    """The sum of a row (F,): `LANES` sums in float32, which are added in float64."""
    lanes = np.zeros(LANES, np.float32)
    whole = row.size // LANES * LANES
    for k in range(0, whole, LANES):
        _add(lanes, row[k : k + LANES])
    found = 0.0
    for j in range(LANES):
        found += np.float64(lanes[j])
    for k in range(whole, row.size):
        found += np.float64(row[k])
    return found


@numba.njit(cache=True, error_model="numpy")
def exponentials(row: Floats, shift: Any, out: Floats) -> float:
    """Fill out (F,) with exp(row - shift); returns their sum."""
    for g in range(row.size):
        out[g] = exp(row[g] - shift)
    return total(out)


@numba.njit(cache=True, error_model="numpy")
def store_softmax_gradient(r: Floats, e: Floats, q: Any, scale: Any, out: Array, d_bias: Floats) -> None:
    """Fill out (F,) with (r - q e) scale, the gradient by logits whose exponentials are e; d_bias adds it up."""
    for g in range(r.size):
        value = (r[g] - e[g] * q) * scale
        d_bias[g] += value
        out[g] = as_element(value, out[g])


@numba.njit(cache=True, error_model="numpy")
def clear(row: Array) -> None:
    """Zeros, which are the same bits in float32 and bfloat16."""
    for g in range(row.size):
        row[g] = 0
