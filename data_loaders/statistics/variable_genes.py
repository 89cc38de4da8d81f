"""Highly variable genes by the method of Seurat 3 (Stuart et al., Cell 2019), from sums over cells.

The variance expected of a gene follows from its mean by a loess curve through log10 variance over log10 mean. Counts
are clipped at mean + sqrt(N) expected standard deviations, and genes are ranked by the variance of the clipped counts
over the expected one. Both steps need sums only: the moments of the counts, and of the clipped counts.
"""

import numba
import numpy as np
from skmisc.loess import loess

SPAN = 0.3


def expected_variance(mean, variance):
    """Loess estimate of the variance of each gene (G,); 1 for genes that do not vary."""
    estimate = np.zeros_like(mean)
    varies = variance > 0
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=SPAN, degree=2)
    model.fit()
    estimate[varies] = model.outputs.fitted_values
    return 10.0**estimate


def clip_at(mean, expected, n_cells):
    """The largest count that enters, per gene (G,)."""
    return mean + np.sqrt(expected * n_cells)


@numba.njit(nogil=True, cache=True)
def add_clipped(columns, counts, clip, total, squares):
    """Add clipped counts and their squares to the sums per gene."""
    for k in range(len(columns)):
        gene = columns[k]
        value = min(float(counts[k]), clip[gene])
        total[gene] += value
        squares[gene] += value * value


def standardised_variance(mean, expected, n_cells, total, squares):
    """Variance of the clipped counts around the unclipped mean over the expected one (G,)."""
    return (n_cells * mean**2 + squares - 2.0 * total * mean) / ((n_cells - 1) * expected)


def top(score, n):
    """The `n` genes of highest score, as sorted positions; equal scores in the order of the genes."""
    return np.sort(np.argsort(-score, kind="stable")[:n])


class ClippedSums:
    """Sums of counts clipped per gene and of their squares, added block by block and merged."""

    def __init__(self, clip):
        self.clip = clip
        self.total, self.squares = np.zeros(len(clip)), np.zeros(len(clip))

    def add(self, block):
        """Add a CSR block of counts (n, G)."""
        add_clipped(block.indices, block.data, self.clip, self.total, self.squares)

    def merge(self, other):
        """Add the sums of other cells and return self."""
        self.total += other.total
        self.squares += other.squares
        return self
