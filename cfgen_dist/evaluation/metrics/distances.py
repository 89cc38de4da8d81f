"""Distances between two clouds of cells in principal components: optimal transport and maximum mean discrepancy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import ot
from scipy.spatial.distance import cdist, pdist

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import Cloud, Points
    from data_loaders.types import Array, Floats

TRANSPORT_CELLS = 1000  # exact transport is cubic in the number of cells: above this, random subsamples
TRANSPORT_REPEATS = 3
KERNEL_CELLS = 2000
LINEAR_TIME_CELLS = 100_000
WIDTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the mixture of RBF kernels
FARTHEST = 1500.0  # squared distances, in squared widths: beyond them a kernel is 0 in float64


def distances(real: Cloud, scored: Cloud, rng: np.random.Generator) -> dict[str, float]:
    """All distances of this module: `w1`, `w2`, `w1_sd`, `w2_sd`, `mmd`, `mmd_rbf`."""
    values = wasserstein(real.points, scored.points, rng)
    mmd = squared_length(real.mean - scored.mean)
    return values | {"mmd": mmd, "mmd_rbf": mmd_rbf(real.points, scored.points, rng)}


def paper_distances(real: Cloud, scored: Cloud, rng: np.random.Generator) -> dict[str, float]:
    """As `distances`, but MMD is the linear-time estimate, as in the paper's tables."""
    values = wasserstein(real.points, scored.points, rng)
    mmd = mmd_linear_time(real.points, scored.points)
    return values | {"mmd": mmd, "mmd_rbf": mmd_rbf(real.points, scored.points, rng)}


def wasserstein(
    real: Floats | Points,
    generated: Floats | Points,
    rng: np.random.Generator,
    cells: int = TRANSPORT_CELLS,
    repeats: int = TRANSPORT_REPEATS,
) -> dict[str, float]:
    """Exact W1 and W2 with Euclidean ground distance, W2 the square root of the squared-distance cost.

    Parameters
    ----------
    real, generated : float arrays or Points (n, C), (m, C)
    rng : numpy.random.Generator
        Draws the subsamples when one side has more than `cells`.
    cells, repeats : int
        Size and number of the subsamples.

    Returns
    -------
    dict
        `w1`, `w2`, and `w1_sd`, `w2_sd` over the subsamples: zero when all cells took part.
    """
    exact = max(len(real), len(generated)) <= cells
    values = []
    for _ in range(1 if exact else repeats):
        squared = cdist(subsample(real, cells, rng), subsample(generated, cells, rng), "sqeuclidean")
        a, b = ot.unif(squared.shape[0]), ot.unif(squared.shape[1])
        w1 = ot.emd2(a, b, np.sqrt(squared), numItermax=5_000_000)
        values.append((w1, np.sqrt(ot.emd2(a, b, squared, numItermax=5_000_000))))
    (w1, w2), (w1_sd, w2_sd) = np.mean(values, axis=0), np.std(values, axis=0)
    return {"w1": float(w1), "w2": float(w2), "w1_sd": float(w1_sd), "w2_sd": float(w2_sd)}


def mmd_linear(real: Floats, generated: Floats) -> float:
    """Squared maximum mean discrepancy under the linear kernel: the squared distance of the two means."""
    return squared_length(real.mean(axis=0) - generated.mean(axis=0))


def squared_length(gap: Floats) -> float:
    """Squared Euclidean length of a vector (C,)."""
    return float(gap @ gap)


def mmd_linear_time(real: Floats | Points, generated: Floats | Points) -> float:
    """The linear-time estimate of `mmd_linear` that the public CFGen code reports.

    mean over i of <d_i, d_{i+1}>, d_i = real_i - generated_i (Gretton et al. 2012, section 6): it depends on the order
    of the cells, is noisy and can be negative. The first `LINEAR_TIME_CELLS` pairs enter. NaN for fewer than two.
    """
    n = min(len(real), len(generated), LINEAR_TIME_CELLS)
    if n < 2:
        return float("nan")
    gaps = real[:n] - generated[:n]
    return float((gaps[:-1] * gaps[1:]).sum(axis=1).mean())


def mmd_rbf(
    real: Floats | Points, generated: Floats | Points, rng: np.random.Generator, cells: int = KERNEL_CELLS
) -> float:
    """Squared MMD under the sum of RBF kernels exp(-d^2 / 2 s^2), s in `WIDTHS`: the unbiased estimate.

    Gretton et al. 2012, equation 3: pairs of a cell with itself are left out, which would be most of the value. Its
    mean is 0 for two sets of one distribution, so that it may be slightly negative. NaN for fewer than two cells on a
    side.
    """
    a, b = subsample(real, cells, rng), subsample(generated, cells, rng)
    if min(len(a), len(b)) < 2:
        return float("nan")
    inside = _kernel_mean(pdist(a, "sqeuclidean")) + _kernel_mean(pdist(b, "sqeuclidean"))
    return float(inside - 2 * _kernel_mean(cdist(a, b, "sqeuclidean").ravel()))


def _kernel_mean(squared: Floats) -> float:
    """Mean over pairs of the sum of kernels, of squared distances (P,)."""
    total, pairs = 0.0, len(squared)
    for width in sorted(WIDTHS, reverse=True):
        squared = squared[squared < FARTHEST * width**2]
        total += float(np.exp(squared * (-0.5 / width**2)).sum())
    return total / pairs


def subsample(cells: Array | Points, limit: int, rng: np.random.Generator) -> Array:
    """All rows of `cells` (n, ...) as an array, or `limit` drawn without replacement when there are more."""
    if len(cells) <= limit:
        return np.asarray(cells)
    return cells[np.sort(rng.choice(len(cells), limit, replace=False))]
