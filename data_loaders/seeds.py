"""Every purpose that a seed serves, in one table: draws for one purpose are independent of those for another."""

import numpy as np

from data_loaders.errors import BadInput


def generator(seed, *key):
    """The generator of the draws named by `key`: randomness is a function, not a state."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def check_seed(seed):
    """Raise `BadInput` for a seed that random number generators do not take."""
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise BadInput(f"seed is {seed}, expected a whole number from 0 to 2**63-1")
