"""Random numbers as a hash of (seed, position): SplitMix64 (Steele, Lea and Flood 2014).

Compiled loops that draw per count call these; a number does not depend on what was drawn before it.

A rule of numba's cache: a compiled loop is kept on disk and made anew when *its own* file changes, not when this one
does. So never change what a function here returns: give the new hash a new name, and every loop that uses it changes.
"""

import numba
import numpy as np

UNIT = 2.0**-53


@numba.njit(nogil=True, cache=True)
def random_bits(seed: np.uint64, i: int) -> np.uint64:
    """Number i (0, 1, ...) of the stream of a seed: 53 random bits, uint64."""
    z = seed + (np.uint64(i) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return z >> np.uint64(11)


@numba.njit(nogil=True, cache=True)
def uniform(seed: np.uint64, i: int) -> float:
    """Number i of the stream of a seed as a float64, never 0: (k + 1/2) 2^-53 for the 53 bits k."""
    return (np.float64(random_bits(seed, i)) + 0.5) * UNIT


@numba.njit(nogil=True, cache=True)
def uniform_to_one(seed: np.uint64, i: int) -> float:
    """As `uniform`, but (k + 1) 2^-53, in (0, 1]."""
    return (np.float64(random_bits(seed, i)) + 1.0) * UNIT
