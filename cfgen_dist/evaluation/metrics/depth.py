"""How many genes does a cell of a given depth express? The curve of detected genes over total counts.

Zeros per cell mix two things: how deep cells are, and how many genes their counts fall on. This is the second alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cfgen_dist.evaluation.metrics.faithfulness import Profile
    from data_loaders.types import Array, Floats, Ints

STEPS = 4  # bins of the curve for each doubling of the total counts
BINS = STEPS * 48
FEWEST_CELLS = 5  # a bin needs as many on each side


def curve_of(totals: Ints, detected: Ints) -> Ints:
    """Sums of a curve, which can be added: int64 (3, BINS), of each bin of depth the cells, their counts, their genes.

    Parameters
    ----------
    totals, detected : int arrays (n,)
        Counts of each cell, and its genes with a count. Cells without counts are left out.
    """
    totals, detected = totals[totals > 0], detected[totals > 0]
    bins = np.clip(np.floor(STEPS * np.log2(totals)).astype(np.int64), 0, BINS - 1)
    curve = np.zeros((3, BINS), np.int64)
    for row, values in zip(curve, (np.ones_like(totals), totals, detected), strict=True):
        np.add.at(row, bins, values)
    return curve


def genes_at_depth(real: Profile, generated: Profile) -> float:
    """Mean over generated cells of the relative difference of the genes that a real cell of their depth expresses.

    In each bin of total counts the mean number of genes is compared with the real curve at the mean depth of the bin's
    generated cells (logarithms, linear between bins). 0.1: ten per cent more, or fewer, genes. Depths that real cells
    do not have are left out; NaN when no depth is common.

    Parameters
    ----------
    real, generated : Profile
    """
    (depth, genes, _), (at, found, cells) = (_points(profile.curve) for profile in (real, generated))
    common = (at >= depth[0]) & (at <= depth[-1]) if len(depth) else np.zeros(len(at), bool)
    if not common.any():
        return float("nan")
    gap = np.abs(found[common] - np.interp(at[common], depth, genes))
    return float(np.average(gap, weights=cells[common]))


def _points(curve: Ints) -> tuple[Floats, Floats, Array]:
    """Of each bin with enough cells: log mean counts, log mean genes, cells."""
    cells, counts, genes = curve[:, curve[0] >= FEWEST_CELLS]
    return np.log(counts / cells), np.log(genes / cells), cells
