"""Are batches mixed, are labels kept? Scores in the manner of scib (Luecken et al. 2022), by scikit-learn.

All scores lie between 0 and 1; higher is better.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples, silhouette_score
from sklearn.neighbors import NearestNeighbors

from data_loaders.types import Array, Floats, Ints

NEIGHBOURS = 30
FEW_CELLS = 10  # a label needs as many for batch scores of its own
LEVEL = 0.05  # of kBET's test
MIXING = ("batch_asw", "ilisi", "kbet")
CONSERVATION = ("label_asw", "label_purity", "label_ari", "label_nmi")


def batch_mixing(cells: Floats, batch: Array, label: Array) -> dict[str, float]:
    """How well batches are mixed.

    Parameters
    ----------
    cells : float array (n, C)
        Principal components.
    batch, label : arrays of str (n,)

    Returns
    -------
    dict
        batch_asw : mean over labels of the mean of 1 - abs(silhouette width by batch) of the label's cells.
        ilisi : (d - 1) / (B - 1), d the median over cells of the inverse Simpson index 1 / sum_b p_b^2 of the batches
        of the 30 nearest neighbours (Korsunsky et al. 2019, with equal weights), B the number of batches.
        kbet : mean over labels of the share of cells whose 30 nearest neighbours of the label have its batches in their
        shares, by Pearson's chi-squared test at level 0.05 (Büttner et al. 2019).
        NaN with fewer than two batches, or no label with 10 cells and two batches.
    """
    widths, accepted = [], []
    for name in np.unique(label):
        alike, batches = cells[label == name], batch[label == name]
        counts = np.unique(batches, return_counts=True)[1]
        if len(alike) < FEW_CELLS or len(counts) < 2:
            continue
        if len(alike) > len(counts):
            widths.append(1 - np.abs(silhouette_samples(alike, batches)).mean())
        accepted.append(_accepted(alike, batches))
    n_batches = len(np.unique(batch))
    simpson = np.nan
    if n_batches > 1:
        effective = 1 / (_shares(cells, batch) ** 2).sum(axis=1)
        simpson = (np.median(effective) - 1) / (n_batches - 1)
    return {"batch_asw": _mean(widths), "ilisi": float(simpson), "kbet": _mean(accepted)}


def label_conservation(cells: Floats, label: Array, seed: int = 0) -> dict[str, float]:
    """How well cells of one label stay together and apart from others.

    Parameters
    ----------
    cells : float array (n, C)
        Principal components.
    label : array of str (n,)
    seed : int
        Of k-means.

    Returns
    -------
    dict
        label_asw : (mean silhouette width by label + 1) / 2.
        label_purity : share of the 30 nearest neighbours that have the cell's own label, mean over labels.
        label_ari, label_nmi : adjusted Rand index and normalised mutual information of the labels and a k-means
        clustering with as many clusters.
        NaN with fewer than two labels.
    """
    names, codes = np.unique(label, return_inverse=True)
    if len(names) < 2 or len(names) >= len(cells):
        return dict.fromkeys(CONSERVATION, float("nan"))
    same = _shares(cells, label)[np.arange(len(cells)), codes]
    clusters = KMeans(len(names), n_init=5, random_state=seed).fit_predict(cells)
    return {
        "label_asw": float((silhouette_score(cells, label) + 1) / 2),
        "label_purity": _mean([same[codes == k].mean() for k in range(len(names))]),
        "label_ari": float(adjusted_rand_score(label, clusters)),
        "label_nmi": float(normalized_mutual_info_score(label, clusters)),
    }


def _neighbours(cells: Floats) -> Ints:
    """The nearest neighbours (n, 30) of each cell, itself not counted; fewer when there are no more cells."""
    k = min(NEIGHBOURS, len(cells) - 1)
    return NearestNeighbors(n_neighbors=k).fit(cells).kneighbors(return_distance=False)


def _shares(cells: Floats, groups: Array) -> Floats:
    """Share of each group (n, groups) among the neighbours of each cell."""
    names, codes = np.unique(groups, return_inverse=True)
    return (codes[_neighbours(cells)][:, :, None] == np.arange(len(names))).mean(axis=1)


def _accepted(cells: Floats, batch: Array) -> float:
    """Share of cells whose neighbours have the batches in their overall shares."""
    expected = np.unique(batch, return_counts=True)[1] / len(batch)
    k = min(NEIGHBOURS, len(cells) - 1)
    statistic = k * ((_shares(cells, batch) - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistic, len(expected) - 1) >= LEVEL).mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
