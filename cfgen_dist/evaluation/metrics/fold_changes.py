"""What sets a type apart from the rest: the log fold changes of generated cells beside those of real ones.

Biologists look at genes by their fold changes, and a generator that draws every type halfway to the average keeps most
distances small. Everything here comes from one sum over all cells: the counts of each gene in each type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.stats import spearmanr

from cfgen_dist.evaluation.metrics.metric import Measured, Values

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import CellSet
    from data_loaders.types import Bools, Floats, Ints

SCALE = 1e4  # levels are counts per 10,000 of the type
PSEUDO = 1.0  # added to both levels of a fold change, which keeps genes of few counts near zero
LEAST = 1.0  # a gene counts for a type whose real cells, or those of the rest, have it at this level
FEWEST_CELLS = 10  # of a type on both sides
FEWEST_GENES = 10
TOP = 100  # genes that a type has more of than the rest
NAMES = ("fold_slope", "fold_rank", "fold_top")


def fold_changes(real: CellSet, scored: CellSet) -> Measured:
    """How the log fold changes of each type against the rest of its set go with those of the real test cells.

    The level of a gene in some cells is its share of all their counts, per 10,000. The log fold change of a type is
    log2((level in the type + 1) / (level in the other cells of the set + 1)). Compared are the genes that the real
    cells of the type, or all other real cells, have at a level of at least 1.

    Parameters
    ----------
    real, scored : CellSet
        Of which `by_type` and `cells` are used.

    Returns
    -------
    Measured
        Of each type: `fold_slope`, the slope of the regression of the scored on the real fold changes (1: as strong;
        noise in the real ones makes it less than 1 for real cells too, hence the floor); `fold_rank`, their Spearman
        correlation; `fold_top`, the share of the 100 genes (a quarter of all, if that is less) with the largest real
        fold changes that is among as many of the scored ones. NaN with fewer than 10 cells of the type, or of the
        rest, on a side, or fewer than 10 genes. Overall: the means over types.
    """
    sides = [(counts, cells.cells, _total(counts)) for cells in (real, scored) if (counts := cells.by_type) is not None]
    types = [_of_type(int(code), *sides) for code in np.flatnonzero(scored.cells)]
    overall = {name: _mean([values[name] for values in types]) for name in NAMES}
    return Measured(overall, types)


def _of_type(code: int, *sides: tuple[sparse.csr_matrix, Ints, Floats]) -> Values:
    """The values of one type, of the real and the scored side: counts by type, cells by type, counts of all."""
    if any(min(cells[code], cells.sum() - cells[code]) < FEWEST_CELLS for _, cells, _ in sides):
        return dict.fromkeys(NAMES, float("nan"))
    levels = [_levels(code, counts, total) for counts, _, total in sides]
    kept: Bools = levels[0].max(axis=0) >= LEAST
    if kept.sum() < FEWEST_GENES:
        return dict.fromkeys(NAMES, float("nan"))
    first, second = (np.log2((own[kept] + PSEUDO) / (rest[kept] + PSEUDO)) for own, rest in levels)
    if first.std() == 0:
        return dict.fromkeys(NAMES, float("nan"))
    top = min(TOP, len(first) // 4)
    best, found = (np.argsort(-fold, kind="stable")[:top] for fold in (first, second))
    return {
        "fold_slope": float(np.cov(first, second)[0, 1] / first.var(ddof=1)),
        "fold_rank": float(spearmanr(first, second).statistic) if second.std() > 0 else 0.0,
        "fold_top": float(np.isin(found, best).mean()),
    }


def _levels(code: int, counts: sparse.csr_matrix, total: Floats) -> Floats:
    """Levels (2, G) in a type and in the rest; zero without any counts."""
    own = np.asarray(counts[[code]].toarray(), np.float64).ravel()
    both = np.stack([own, total - own])
    return SCALE * both / np.maximum(both.sum(axis=1), 1.0)[:, None]


def _total(counts: sparse.csr_matrix) -> Floats:
    return np.asarray(counts.sum(axis=0), np.float64).ravel()


def _mean(values: list[float]) -> float:
    """The mean of those that could be measured; NaN without any."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
