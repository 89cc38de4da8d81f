"""The counts themselves: zeros, depth, dropout of genes, and variance against mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import sparse
from scipy.stats import wasserstein_distance

from cfgen_dist.evaluation.metrics.depth import BINS, curve_of
from data_loaders.statistics.sums import GeneMoments

if TYPE_CHECKING:
    from data_loaders.types import Array, Floats, Ints

TREND_BINS = 20
TREND_GENES = 5  # a bin of the trend needs as many genes on both sides


class Profile(GeneMoments):
    """What the faithfulness metrics need to know of a set of cells; profiles of parts merge into that of the whole.

    Attributes
    ----------
    n_cells, nonzero, total, squares
        As in `GeneMoments`: cells; per gene, cells with it, sums of counts and of their squares.
    totals : int64 array (2, D)
        The distinct numbers of counts that cells have, ascending, and how many cells have each: the size factors.
    detected : int64 array (2, E)
        The same of the number of genes with a count.
    curve : int64 array (3, BINS)
        Cells, counts and genes with a count of the cells of each bin of depth (see `depth.curve_of`).
    """

    def __init__(self, n_genes: int) -> None:
        super().__init__(n_genes)
        self.totals: Ints = np.empty((2, 0), np.int64)
        self.detected: Ints = np.empty((2, 0), np.int64)
        self.curve: Ints = np.zeros((3, BINS), np.int64)

    @classmethod
    def of(cls, counts: sparse.csr_matrix) -> Profile:
        """The profile of counts (n, G), scipy CSR without stored zeros."""
        profile = cls(counts.shape[1])
        profile.add(sparse.csr_matrix(counts))
        return profile

    def add(self, counts: sparse.csr_matrix) -> None:
        """Add scipy CSR (n, G) without stored zeros."""
        super().add(counts)
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel().astype(np.int64)
        self.totals = add_tallies(self.totals, tally(totals))
        detected = np.diff(counts.indptr).astype(np.int64)
        self.detected = add_tallies(self.detected, tally(detected))
        self.curve = self.curve + curve_of(totals, detected)

    def merge(self, other: Self) -> Self:
        """Add the cells of another profile and return self."""
        super().merge(other)
        self.totals = add_tallies(self.totals, other.totals)
        self.detected = add_tallies(self.detected, other.detected)
        self.curve = self.curve + other.curve
        return self

    @property
    def zeros(self) -> float:
        """Share of zeros in the matrix."""
        return 1.0 - self.nonzero.sum() / (self.n_cells * len(self.nonzero))

    @property
    def zeros_per_cell(self) -> tuple[Floats, Ints]:
        """Shares of genes without a count that cells have, and how many cells have each: two arrays (E,)."""
        return 1.0 - self.detected[0] / len(self.nonzero), self.detected[1]

    @property
    def log_totals(self) -> tuple[Floats, Ints]:
        """Natural logs of the size factors, and how many cells have each: two arrays (D,).

        A cell without counts stands at zero.
        """
        return np.log(np.maximum(self.totals[0], 1)), self.totals[1]

    @property
    def dropout(self) -> Floats:
        """Share of cells without a count, per gene (G,)."""
        return 1.0 - self.nonzero / self.n_cells


def tally(values: Ints) -> Ints:
    """Distinct values, ascending, and how often each occurs, int64 (2, D)."""
    return np.stack(np.unique(values, return_counts=True)).astype(np.int64)


def add_tallies(a: Ints, b: Ints) -> Ints:
    """The tally of all values of two tallies."""
    values, place = np.unique(np.concatenate([a[0], b[0]]), return_inverse=True)
    cells = np.zeros(len(values), np.int64)
    np.add.at(cells, place, np.concatenate([a[1], b[1]]))
    return np.stack([values, cells])


def zeros(real: Profile, generated: Profile) -> float:
    """Share of zeros in the generated matrix; to be compared with that of the real one."""
    return float(generated.zeros)


def open_share(real: Profile, generated: Profile) -> float:
    """Mean share of peaks that are open in a generated cell."""
    return float(1.0 - generated.zeros)


def zeros_per_cell(real: Profile, generated: Profile) -> float:
    """W1 between the distributions of the share of zeros per cell."""
    return _w1(real.zeros_per_cell, generated.zeros_per_cell)


def dropout(real: Profile, generated: Profile) -> float:
    """Mean over genes of the absolute difference of the share of cells without the gene."""
    return float(np.abs(real.dropout - generated.dropout).mean())


def mean_variance(real: Profile, generated: Profile) -> float:
    """Mean absolute difference of the two mean-variance trends, in log10 variance (see `trend`); NaN without any."""
    edges = trend_edges(real)
    gap = np.abs(trend(real, edges) - trend(generated, edges))
    return float(np.nanmean(gap)) if np.isfinite(gap).any() else float("nan")


def size_factor(real: Profile, generated: Profile) -> float:
    """W1 between the distributions of natural log size factors: 0.1 is a shift by about 10 %."""
    return _w1(real.log_totals, generated.log_totals)


def trend_edges(profile: Profile) -> Floats:
    """Edges (TREND_BINS + 1,) of equal bins of log10 mean count, between the 1st and 99th percentile over genes."""
    mean = profile.mean()
    first, last = np.quantile(np.log10(mean[mean > 0]), [0.01, 0.99])
    return np.linspace(first, last, TREND_BINS + 1)


def trend(profile: Profile, edges: Floats) -> Floats:
    """Median log10 variance of the genes of each bin of log10 mean count; NaN with fewer than `TREND_GENES` genes."""
    mean, variance = profile.mean(), profile.variance()
    keep = (mean > 0) & (variance > 0)
    bins = np.digitize(np.log10(mean[keep]), edges) - 1
    logs = np.log10(variance[keep])
    medians = [
        np.median(logs[bins == k]) if (bins == k).sum() >= TREND_GENES else np.nan for k in range(len(edges) - 1)
    ]
    return np.array(medians)


def _w1(a: tuple[Array, Ints], b: tuple[Array, Ints]) -> float:
    """W1 between two distributions, each of values and weights."""
    return float(wasserstein_distance(a[0], b[0], a[1], b[1]))
