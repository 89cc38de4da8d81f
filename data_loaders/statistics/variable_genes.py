"""Highly variable genes by the method of Seurat 3 (Stuart et al., Cell 2019), from sums over cells.

The variance expected of a gene follows from its mean by a loess curve through log10 variance over log10 mean. Counts
are clipped at mean + sqrt(N) expected standard deviations, and genes are ranked by the variance of the clipped counts
over the expected one. Both steps need sums only: the moments of the counts, and of the clipped counts.

Where so few cells were counted that most genes share one of a few means, there is no such curve. Genes are then ranked
by the variance of their log-normalised counts.
"""

import logging
from typing import NamedTuple, Self

import numba
import numpy as np
from skmisc.loess import loess

from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas
from data_loaders.statistics.csr import Csr
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments, Pass, checked_rows, sum_over
from data_loaders.types import Array, Floats, Ints

log = logging.getLogger("data_loaders")
SPAN = 0.3  # share of the varying genes in each neighbourhood of the loess fit
DEGREE = 2
NO_TREND = (
    "variable genes: no trend of the variance over the mean can be fitted, as too many genes have the same mean; "
    "chosen by the variance of log-normalised counts instead"
)


class VariableGenes(NamedTuple):
    """The genes that `choose` chose.

    Attributes
    ----------
    genes : int array, sorted
    note : str or None
        What was done instead, where Seurat 3's method cannot be used.
    """

    genes: Ints
    note: str | None


def variable_genes(atlas: Atlas, n_genes: int, rows: Ints | None = None) -> Ints:
    """The most variable genes of an atlas by Seurat 3's method on raw counts, out of core.

    The same genes as `scanpy.pp.highly_variable_genes(flavor="seurat_v3")` finds, in two passes. Where scanpy fails,
    because too many genes have the same mean, those whose log-normalised counts vary most, with a warning in the log.

    Parameters
    ----------
    atlas : Atlas
    n_genes : int
    rows : integer array, optional
        Only these cells; all by default.

    Returns
    -------
    int array (n_genes,), sorted

    Raises
    ------
    BadInput
        An unknown row, counts that are not sparse, no cells, or more genes than there are.
    """
    rows = checked_rows(atlas, rows)
    if not 1 <= n_genes <= atlas.n_genes:
        raise BadInput(f"{atlas.name}: {n_genes} variable genes asked for; expected 1 to {atlas.n_genes:,}")
    moments = sum_over(atlas, rows, lambda: GeneMoments(atlas.n_genes), "gene moments")
    return choose(moments, n_genes, lambda new: sum_over(atlas, rows, new, "variable genes")).genes


def choose(moments: GeneMoments, n_genes: int, pass_over: Pass, candidates: Ints | None = None) -> VariableGenes:
    """Choose the most variable genes, by one more pass over the cells.

    Parameters
    ----------
    moments : GeneMoments
        Of all cells.
    n_genes : int
        How many genes are wanted; no more than there are candidates.
    pass_over : callable
        Takes the sums over the same cells. Blocks added to `LogSums` must hold whole cells.
    candidates : int array, optional
        Genes to choose from, sorted; all by default.

    Returns
    -------
    VariableGenes
    """
    candidates = np.arange(len(moments.total)) if candidates is None else candidates
    mean, n_cells = moments.mean()[candidates], moments.n_cells
    try:
        expected = expected_variance(mean, moments.variance()[candidates])
    except ValueError:
        log.warning(NO_TREND)
        log_sums = pass_over(lambda: LogSums(len(moments.total)))
        return VariableGenes(candidates[top(log_sums.variance()[candidates], n_genes)], NO_TREND)
    clip = np.full(len(moments.total), np.inf)
    clip[candidates] = clip_at(mean, expected, n_cells)
    sums = pass_over(lambda: ClippedSums(clip))
    score = standardised_variance(mean, expected, n_cells, sums.total[candidates], sums.squares[candidates])
    return VariableGenes(candidates[top(score, n_genes)], None)


def expected_variance(mean: Floats, variance: Floats) -> Floats:
    """Loess estimate of the variance of each gene (G,); 1 for genes that do not vary.

    Raises
    ------
    ValueError
        When some neighbourhood of the fit has too few distinct means.
    """
    estimate = np.zeros_like(mean)
    varies = variance > 0
    # There the fit failed in all of 1,495 simulated cases; with one distinct mean more in 322 of 327, with two more in
    # 58 of 189, then never: so those are tried.
    if _fewest_distinct(mean[varies]) <= DEGREE:
        raise ValueError("fewer different means in a neighbourhood than a parabola needs")
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=SPAN, degree=DEGREE)
    model.fit()
    estimate[varies] = model.outputs.fitted_values
    return 10.0**estimate


def _fewest_distinct(mean: Floats) -> int:
    """The fewest distinct means in any neighbourhood of the loess fit."""
    window = int(SPAN * len(mean))
    if window == 0:
        return 0
    ranks = np.cumsum(np.diff(np.sort(mean), prepend=-1.0) > 0)
    return int((ranks[window - 1 :] - ranks[: len(ranks) - window + 1]).min()) + 1


def clip_at(mean: Floats, expected: Floats, n_cells: int) -> Floats:
    """The largest count that enters, per gene (G,)."""
    return mean + np.sqrt(expected * n_cells)


def standardised_variance(mean: Floats, expected: Floats, n_cells: int, total: Floats, squares: Floats) -> Floats:
    """Variance of the clipped counts around the unclipped mean over the expected one (G,)."""
    return (n_cells * mean**2 + squares - 2.0 * total * mean) / ((n_cells - 1) * expected)


def top(score: Floats, n: int) -> Ints:
    """The `n` genes of highest score, as sorted positions; equal scores in the order of the genes."""
    return np.sort(np.argsort(-score, kind="stable")[:n])


class ClippedSums:
    """Sums of counts clipped per gene and of their squares, added block by block and merged."""

    def __init__(self, clip: Floats) -> None:
        self.clip = clip
        self.total, self.squares = np.zeros(len(clip)), np.zeros(len(clip))

    def add(self, block: Csr) -> None:
        """Add a block of counts (n, G)."""
        _add_clipped(block.indices, block.data, self.clip, self.total, self.squares)

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.total += other.total
        self.squares += other.squares
        return self


@numba.njit(nogil=True, cache=True)
def _add_clipped(columns: Ints, counts: Array, clip: Floats, total: Floats, squares: Floats) -> None:
    """Add clipped counts and their squares to the sums per gene."""
    for k in range(len(columns)):
        gene = columns[k]
        value = min(float(counts[k]), clip[gene])
        total[gene] += value
        squares[gene] += value * value
