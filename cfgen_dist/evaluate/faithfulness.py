"""The counts themselves: zeros, depth, dropout of genes, and variance against mean."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import wasserstein_distance

from data_loaders.statistics import GeneMoments

TREND_BINS = 20
TREND_GENES = 5  # a bin of the trend needs as many genes on both sides


@dataclass
class Profile:
    """What the faithfulness metrics need to know of a set of cells; profiles of parts merge into that of the whole.

    Attributes
    ----------
    moments : GeneMoments
        Per gene: cells with it, sums of counts and of their squares.
    totals : float64 array (n,)
        Counts per cell: the size factors.
    detected : int64 array (n,)
        Genes with a count, per cell.
    """

    moments: GeneMoments
    totals: np.ndarray
    detected: np.ndarray

    @classmethod
    def of(cls, counts):
        """The profile of counts, scipy CSR (n, G) without stored zeros."""
        counts = sparse.csr_matrix(counts)
        moments = GeneMoments(counts.shape[1])
        moments.add(counts.data.astype(np.int32), counts.indices.astype(np.int32), counts.indptr.astype(np.int64))
        return cls(
            moments, np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), np.diff(counts.indptr).astype(np.int64)
        )

    def merge(self, other):
        """Add the cells of another profile and return self."""
        self.moments.merge(other.moments)
        self.totals = np.concatenate([self.totals, other.totals])
        self.detected = np.concatenate([self.detected, other.detected])
        return self

    @property
    def zeros(self):
        """Share of zeros in the matrix."""
        return 1.0 - self.detected.sum() / (len(self.detected) * len(self.moments.nonzero))

    @property
    def zeros_per_cell(self):
        """Share of genes without a count, per cell (n,)."""
        return 1.0 - self.detected / len(self.moments.nonzero)

    @property
    def dropout(self):
        """Share of cells without a count, per gene (G,)."""
        return 1.0 - self.moments.nonzero / len(self.totals)

    @property
    def log_totals(self):
        """Natural log of the size factors (n,); a cell without counts stands at zero."""
        return np.log(np.maximum(self.totals, 1.0))


def faithfulness(real, generated):
    """Compare two profiles.

    Parameters
    ----------
    real, generated : Profile

    Returns
    -------
    dict
        zeros
            Share of zeros in the generated matrix; to be compared with `real.zeros`.
        zeros_per_cell
            W1 between the distributions of the share of zeros per cell.
        dropout
            Mean over genes of the absolute difference of the share of cells without the gene.
        mean_variance
            Mean absolute difference of the two mean-variance trends, in log10 variance (see `trend`).
        size_factor
            W1 between the distributions of natural log size factors: 0.1 is a shift by about 10 %.
    """
    edges = trend_edges(real)
    gap = np.abs(trend(real, edges) - trend(generated, edges))
    return {
        "zeros": float(generated.zeros),
        "zeros_per_cell": float(wasserstein_distance(real.zeros_per_cell, generated.zeros_per_cell)),
        "dropout": float(np.abs(real.dropout - generated.dropout).mean()),
        "mean_variance": float(np.nanmean(gap)) if np.isfinite(gap).any() else float("nan"),
        "size_factor": float(wasserstein_distance(real.log_totals, generated.log_totals)),
    }


def trend_edges(profile):
    """Edges (TREND_BINS + 1,) of equal bins of log10 mean count, between the 1st and 99th percentile over genes."""
    mean = profile.moments.mean()
    return np.linspace(*np.quantile(np.log10(mean[mean > 0]), [0.01, 0.99]), TREND_BINS + 1)


def trend(profile, edges):
    """Median log10 variance of the genes of each bin of log10 mean count; NaN with fewer than `TREND_GENES` genes."""
    mean, variance = profile.moments.mean(), profile.moments.variance()
    keep = (mean > 0) & (variance > 0)
    bins = np.digitize(np.log10(mean[keep]), edges) - 1
    logs = np.log10(variance[keep])
    medians = [
        np.median(logs[bins == k]) if (bins == k).sum() >= TREND_GENES else np.nan for k in range(len(edges) - 1)
    ]
    return np.array(medians)
