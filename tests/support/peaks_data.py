"""Peaks of three made-up types, for the tests of accessibility and of markers."""

import numpy as np
from scipy import sparse

KINDS = np.repeat(["a", "b", "c"], 60)


def peaks(seed=0, strength=0.3):
    """Counts of three types, 180 x 80: each opens peaks of its own."""
    rng = np.random.default_rng(seed)
    openness = np.full((3, 80), 0.05)
    for k in range(3):
        openness[k, 20 * k : 20 * k + 20] += strength
    kinds = np.repeat([0, 1, 2], 60)
    return sparse.csr_matrix((rng.random((180, 80)) < openness[kinds]) * rng.integers(1, 4, (180, 80)))
