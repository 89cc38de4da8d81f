"""Which cells train, which validate, which test."""

import numpy as np
import pandas as pd

from data_loaders.card import SPLITS
from data_loaders.seeds import Ingestion, generator
from data_loaders.types import Bools, Ints


def random_split(strata: Ints, *, test_fraction: float, val_fraction: float, seed: int) -> pd.Categorical:
    """Split cells at random within each stratum.

    Of a stratum of n cells `round(n * test_fraction)` are test cells and `round(m * val_fraction)` of the m others are
    validation cells; but at least one cell is a training cell, so that no type is only
    tested on.

    Parameters
    ----------
    strata : int (n_cells,)
        Codes, all zero for no strata.
    test_fraction, val_fraction : float
        In [0, 1).
    seed : int

    Returns
    -------
    pandas.Categorical (n_cells,)
        Categories train, val, test.
    """
    rng = generator(seed, Ingestion.SPLIT)
    test = _draw(np.asarray(strata), np.ones(len(strata), bool), test_fraction, rng)
    val = _draw(np.asarray(strata), ~test, val_fraction, rng)
    return _categorical(test, val)


def holdout_split(
    groups: pd.Categorical, fraction: float, strata: Ints, *, val_fraction: float, seed: int
) -> tuple[pd.Categorical, list[str]]:
    """Hold whole groups (donors) out as test cells; validation cells are drawn from the others as in `random_split`.

    `round(n_groups * fraction)` groups, at least one and not all, are held out.

    Parameters
    ----------
    groups : pandas.Categorical (n_cells,)
    fraction, val_fraction : float
    strata : int (n_cells,)
    seed : int

    Returns
    -------
    pandas.Categorical (n_cells,), list of str
        The split, and the names of the groups held out.
    """
    rng = generator(seed, Ingestion.SPLIT)
    n = len(groups.categories)
    held = np.sort(rng.permutation(n)[: min(max(round(n * fraction), 1), n - 1)])
    test = np.isin(groups.codes, held)
    val = _draw(np.asarray(strata), ~test, val_fraction, rng)
    return _categorical(test, val), [str(groups.categories[code]) for code in held]


def known_split(test: Bools, strata: Ints, *, val_fraction: float, seed: int) -> pd.Categorical:
    """The split of which the test cells are known, bool (n_cells,); validation cells as in `random_split`."""
    return _categorical(test, _draw(np.asarray(strata), ~test, val_fraction, generator(seed, Ingestion.SPLIT)))


def _draw(strata: Ints, candidates: Bools, fraction: float, rng: np.random.Generator) -> Bools:
    """Mark a fraction of the candidates of each stratum, never all of them."""
    rows = np.flatnonzero(candidates)
    rows = rows[np.lexsort((rng.random(len(rows)), strata[rows]))]  # by stratum, in random order within
    _, start, size = np.unique(strata[rows], return_index=True, return_counts=True)
    marked = np.zeros(len(strata), bool)
    for first, n in zip(start, size, strict=True):
        marked[rows[first : first + min(round(n * fraction), n - 1)]] = True
    return marked


def _categorical(test: Bools, val: Bools) -> pd.Categorical:
    """The split as categories."""
    return pd.Categorical.from_codes(np.where(test, 2, np.where(val, 1, 0)), categories=SPLITS)
