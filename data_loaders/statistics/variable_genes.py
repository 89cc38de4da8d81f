"""Highly variable genes by the method of Seurat 3 (Stuart et al., Cell 2019), from sums over cells.

The variance expected of a gene follows from its mean by a loess curve through log10 variance over log10 mean. Counts
are clipped at mean + sqrt(N) expected standard deviations, and genes are ranked by the variance of the clipped counts
over the expected one. Both steps need sums only: the moments of the counts, and of the clipped counts.

The genes are those of `scanpy.pp.highly_variable_genes(flavor="seurat_v3")`, ties at the last place included: all is
computed in scanpy's order of operations, and equal scores are ordered by the same call.

Where so few cells were counted that most genes share one of a few means, there is no such curve, and scanpy fails.
Genes are then ranked by the variance of their log-normalised counts.
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
    total, squares = pass_over(lambda: ClippedSums(clip)).clipped()
    score = standardised_variance(mean, expected, n_cells, total[candidates], squares[candidates])
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
    clip: Floats = np.sqrt(expected) * np.sqrt(n_cells) + mean
    return clip


def standardised_variance(mean: Floats, expected: Floats, n_cells: int, total: Floats, squares: Floats) -> Floats:
    """Variance of the clipped counts around the unclipped mean over the expected one (G,).

    In scanpy's order of operations: scores that are equal there must be equal here.
    """
    deviation = np.sqrt(expected)
    around_mean = n_cells * np.square(mean) + squares - 2 * total * mean
    score: Floats = (1 / ((n_cells - 1) * np.square(deviation))) * around_mean
    return score


def top(score: Floats, n: int) -> Ints:
    """The `n` genes of highest score, as sorted positions.

    Many rare genes have the same score, and the last place often falls among them. Which of them are taken is up to
    numpy's default sort, as in scanpy: it is fast, not stable, and may differ between kinds of processors.
    """
    return np.sort(np.argsort(-score)[:n])


class ClippedSums:
    """Sums of counts clipped per gene and of their squares, added block by block and merged.

    Counts above the bound are counted, not added, so that all sums are whole numbers and do not depend on how the cells
    were divided.

    Attributes
    ----------
    clip : float64 (G,)
        The largest count that enters; infinite for no bound.
    total, squares : float64 (G,)
        Sums over the counts up to the bound.
    above : int64 (G,)
        Counts above it.
    """

    def __init__(self, clip: Floats) -> None:
        self.clip = clip
        self.total, self.squares = np.zeros(len(clip)), np.zeros(len(clip))
        self.above = np.zeros(len(clip), np.int64)

    def add(self, block: Csr) -> None:
        """Add a block of counts (n, G)."""
        _add_clipped(block.indices, block.data, self.clip, self.total, self.squares, self.above)

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.total += other.total
        self.squares += other.squares
        self.above += other.above
        return self

    def clipped(self) -> tuple[Floats, Floats]:
        """Sums of all counts, each at most the bound, and of their squares, float64 (G,) each."""
        bound = np.where(self.above > 0, self.clip, 0.0)
        return self.total + self.above * bound, self.squares + self.above * bound**2


@numba.njit(nogil=True, cache=True)
def _add_clipped(columns: Ints, counts: Array, clip: Floats, total: Floats, squares: Floats, above: Ints) -> None:
    """Add counts and their squares to the sums per gene, or count those above the bound."""
    for k in range(len(columns)):
        gene = columns[k]
        value = float(counts[k])
        if value > clip[gene]:
            above[gene] += 1
        else:
            total[gene] += value
            squares[gene] += value * value
