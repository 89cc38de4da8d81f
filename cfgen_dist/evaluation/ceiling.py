"""The ceiling: what a perfect model would score that knows only the training cells there are.

It has everything between genes and cells right and must estimate one thing: the mean of each gene in each type, from n
training cells, shrunk by one pseudo-count. So all its cells share the errors of those means, and a classifier sees
them. The floor, training cells themselves, does not have that term; no generator trained on as many cells is without.

A set is made of training cells, as the floor is. With o the total of a gene over the n cells of a type (each scaled to
their mean depth) and o' that of as many cells drawn from them with replacement, the means are off by the factor
r = (o' + 1) / (o + 1), as far as those of the training cells are from the truth. Counts are thinned where r < 1; where
r > 1, thinned counts of other cells of the type are added.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.sources import Cells
from cfgen_dist.evaluation.verdict import number
from data_loaders.seeds import Evaluation, generator
from data_loaders.types import Floats, Ints, PathLike
from data_loaders.writing.writer import AtlasWriter

SOURCE_CELLS = 5000  # training cells of a type that totals are taken from, and cells added
MADE_CELLS = 5000  # at a time
FEWEST_CELLS = 5  # of a type: a draw with replacement from fewer hardly varies, so totals are drawn from Poisson's law
PSEUDO_COUNT = 1.0
SETS, MANY_CELLS = 3, 5000  # sets; one where a set has more cells than that: then it varies little
NAMED = ("w2", "mmd", "knn_f1", "auc_genes", "auc_linear", "fold_slope")


def ceiling_sets(wanted: Mapping[int, int], asked: bool) -> int:
    """How many sets to make; `wanted` is code of a type → cells."""
    return 0 if not asked else 1 if sum(wanted.values()) > MANY_CELLS else SETS


def error_of_means(counts: sparse.csr_matrix, n_known: int, rng: np.random.Generator) -> Floats:
    """Factors r (G,) that the means of genes are off by, drawn at random.

    Parameters
    ----------
    counts : scipy CSR (m, G)
        Cells of a type: all that are known, or a sample of them.
    n_known : int
        How many are known.
    rng : numpy.random.Generator
    """
    m = counts.shape[0]
    sizes = np.maximum(np.asarray(counts.sum(axis=1)).ravel().astype(np.float64), 1.0)
    weights = sizes.mean() / sizes
    total = weights @ counts
    known = total * (n_known / m)
    if m < FEWEST_CELLS:
        again = rng.poisson(known).astype(np.float64)
    else:
        drawn = rng.multinomial(m, np.full(m, 1 / m))
        again = np.maximum(known + ((weights * drawn) @ counts - total) * np.sqrt(n_known / m), 0.0)
    return np.asarray((again + PSEUDO_COUNT) / (known + PSEUDO_COUNT))


def with_means_off(
    counts: sparse.csr_matrix, others: sparse.csr_matrix, factor: Floats, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Cells whose expected counts are `factor` times as large.

    Parameters
    ----------
    counts : scipy CSR (n, G)
    others : scipy CSR (m, G)
        Cells of the same type, from which counts are added.
    factor : (G,) array
    rng : numpy.random.Generator

    Returns
    -------
    scipy CSR (n, G), int64
    """
    made = _thinned(counts, np.minimum(factor, 1.0), rng)
    left = factor - 1.0
    while (left > 0).any():
        partners = others[rng.integers(others.shape[0], size=counts.shape[0])]
        made = made + _thinned(partners, np.clip(left, 0.0, 1.0), rng)
        left = left - 1.0
    return made


def _thinned(counts: sparse.csr_matrix, share: Floats, rng: np.random.Generator) -> sparse.csr_matrix:
    thinned = sparse.csr_matrix(counts, dtype=np.int64, copy=True)
    thinned.data = rng.binomial(thinned.data, share[thinned.indices])
    thinned.eliminate_zeros()
    return thinned


def write_ceiling(path: PathLike, real: Cells, train: Ints, wanted: Mapping[int, int], seed: int, draw: int) -> None:
    """Write a set of the ceiling as an atlas, a type at a time.

    Parameters
    ----------
    path : path-like
    real : Cells
    train : int array
        Rows of its training cells.
    wanted : dict of int to int
        Code of a type → cells to make, no more than there are training cells.
    seed, draw : int
    """
    rng = generator(seed, Evaluation.CEILING, draw)
    made = 0
    with AtlasWriter(path, pd.DataFrame(index=real.genes), labels=[real.label] if real.label else []) as writer:
        for code, n in sorted(wanted.items()):
            for block in _made(real, rng.permutation(train[real.codes[train] == code]), n, rng):
                names = [f"ceiling-{made + i}" for i in range(block.shape[0])]
                labels = pd.Categorical.from_codes(np.full(len(names), code), categories=real.types)
                obs = pd.DataFrame({real.label: labels} if real.label else {}, index=names)
                writer.append(block.astype(np.uint32), obs)
                made += len(names)
        writer.close(provenance={"notes": ["ceiling: training cells, the means of their types off by chance"]})


def _made(real: Cells, rows: Ints, n: int, rng: np.random.Generator) -> Iterator[sparse.csr_matrix]:
    """Yield `n` cells made of the first of `rows`, training cells of a type in random order, in blocks (CSR)."""
    others = real.read(np.sort(rows[:SOURCE_CELLS]))
    factor = error_of_means(others, len(rows), rng)
    for start in range(0, n, MADE_CELLS):
        yield with_means_off(real.read(np.sort(rows[start : min(start + MADE_CELLS, n)])), others, factor, rng)


def ceiling_in_words(metrics: Mapping[str, Mapping[str, Any]], n_cells: int) -> list[str]:
    """One sentence with the ceiling of some measures, their floor in brackets; empty where there is no ceiling."""
    titles = {metric.key: metric.title for metric in catalogue.METRICS}
    rows: Sequence[tuple[str, Mapping[str, Any]]] = [
        (key, metrics[key]) for key in NAMED if "ceiling" in metrics.get(key, {})
    ]
    values = [
        f"{row.get('title', titles[key])} {number(row['ceiling']['mean'])} ({number(row['floor']['mean'])})"
        for key, row in rows
    ]
    if not values:
        return []
    told = f"what a perfect model that knows these {n_cells:,} training cells would score, the floor in brackets"
    return [f"Ceiling, {told}: {', '.join(values)}."]
