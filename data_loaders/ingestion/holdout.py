"""Cells that are held out to test on: all of some donors, drawn by a share, or one combination of labels by name."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.ingestion.splits import holdout_split, known_split
from data_loaders.types import Ints

Holdout = tuple[str, float] | Mapping[str, str] | None


def held_columns(holdout: Holdout) -> list[str]:
    """The obs columns that a holdout needs."""
    return list(holdout) if isinstance(holdout, Mapping) else [] if holdout is None else [holdout[0]]


def check_share(holdout: Holdout) -> None:
    """Raise `BadInput` for a share that cannot be, before anything is read."""
    if isinstance(holdout, tuple) and not 0 < holdout[1] < 1:
        column, share = holdout
        raise BadInput(f"`holdout` has {share} for {column!r}: expected a share above 0 and below 1")


def check_holdout(holdout: Holdout, obs: pd.DataFrame) -> None:
    """Raise `BadInput` where a column has one category alone, or a combination none or all of the cells."""
    if isinstance(holdout, tuple) and len(obs[holdout[0]].cat.categories) < 2:
        raise BadInput(f"`holdout` names {holdout[0]!r}: the column has a single category; expected two or more")
    if isinstance(holdout, Mapping):
        for name, category in holdout.items():
            categories = list(obs[name].cat.categories)
            if category not in categories:
                raise BadInput(f"`holdout` names {name}={category}: {nearest(category, categories)}")
        held = _held(obs, holdout)
        if not held.any() or held.all():
            found = "no cell is" if not held.any() else "all cells are"
            raise BadInput(f"`holdout`: {found} {_in_words(holdout)}; expected some of the cells")


def hold_out(
    cells: pd.DataFrame, holdout: tuple[str, float] | Mapping[str, str], strata: Ints, *, val_fraction: float, seed: int
) -> tuple[pd.Categorical, list[str]]:
    """Split cells as `holdout` says.

    Parameters
    ----------
    cells : DataFrame (n_cells, columns)
        With the columns of `holdout`, categorical.
    holdout : tuple of (str, float), or dict of str to str
        A column and a share of its categories, or a combination, column → category.
    strata : int (n_cells,)
    val_fraction : float
    seed : int
        As in `holdout_split`.

    Returns
    -------
    pandas.Categorical (n_cells,), list of str
        The split, and what was held out, in words.
    """
    if isinstance(holdout, Mapping):
        held = _held(cells, holdout).to_numpy()
        return known_split(held, strata, val_fraction=val_fraction, seed=seed), [_in_words(holdout)]
    column, share = holdout
    groups = cells[column].cat.remove_unused_categories().array
    return holdout_split(groups, share, strata, val_fraction=val_fraction, seed=seed)


def _held(obs: pd.DataFrame, holdout: Mapping[str, str]) -> "pd.Series[bool]":
    held = pd.Series(np.ones(len(obs), bool), index=obs.index)
    for name, category in holdout.items():
        held &= obs[name] == category
    return held


def _in_words(holdout: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={category}" for name, category in holdout.items())
