"""Are genes too rare or too abundant, depending on how abundant they are? Decoders tend to starve the rare ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cfgen_dist.evaluation.metrics.faithfulness import Profile
    from data_loaders.types import Floats

BINS = 10  # of genes ordered by abundance, each with a tenth of all counts
RARE = 2  # of them are the rare genes: all but the most abundant genes that hold 80 % of the counts


def abundance(real: Profile, generated: Profile) -> dict[str, float]:
    """Generated over real counts, by the abundance of genes.

    Genes are ordered by their share of the counts, the mean of the real and the generated share (by the real one alone,
    genes that are rare by chance would count as rare, and real cells would have more of them), and cut into ten bins
    with a tenth of the counts each.

    Parameters
    ----------
    real, generated : Profile

    Returns
    -------
    dict
        `rare_genes`: share of the generated over share of the real counts that fall on the two bins of the rarest
        genes (1: alike). `abundance`: mean over the ten bins of the absolute natural logarithm of that ratio. NaN when
        a side has no counts.
    """
    if not (real.total.sum() and generated.total.sum()):
        return {"rare_genes": float("nan"), "abundance": float("nan")}
    shares = np.stack([profile.total / profile.total.sum() for profile in (real, generated)])
    order = np.argsort(shares.sum(axis=0), kind="stable")
    bins = _bins(shares.mean(axis=0)[order])
    first, second = (np.bincount(bins, share[order], BINS) for share in shares)
    rare = second[:RARE].sum() / first[:RARE].sum() if first[:RARE].sum() else float("nan")
    kept = (first > 0) & (second > 0)
    return {"rare_genes": float(rare), "abundance": float(np.abs(np.log(second[kept] / first[kept])).mean())}


def _bins(shares: Floats) -> np.ndarray:
    """Bin of each gene, of shares (G,) in ascending order: where the middle of its share lies in the whole."""
    middle = np.cumsum(shares) - shares / 2
    return np.minimum((BINS * middle / shares.sum()).astype(np.int64), BINS - 1)
