"""How many cells of each combination of labels: from a table, or drawn as observed with some attributes fixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.labels import as_label
from data_loaders.records import show
from data_loaders.seeds import Generation, generator
from data_loaders.tables import read_table
from data_loaders.types import Array, Ints, PathLike

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

MOST_CELLS = 10**12
MOST_BYTES = 1 << 33  # of a label table


def combinations_of(
    model: TrainedModel, n: int | None, labels: Mapping[str, str] | pd.DataFrame, seed: int
) -> tuple[Ints, Ints]:
    """Label combinations asked for, and the cells of each.

    Parameters
    ----------
    model : TrainedModel
    n : int or None
        Number of cells; None if a table says it.
    labels : dict of str to str, or DataFrame
        As in `CFGen.generate`.
    seed : int

    Returns
    -------
    codes : (M, K) int64 array
    counts : (M,) int64 array

    Raises
    ------
    BadInput
        An unknown attribute or category (with the nearest valid name), a number of cells that cannot be.
    """
    if isinstance(labels, pd.DataFrame):
        codes, counts = _from_table(model, labels)
        if n is not None and n != counts.sum():
            raise BadInput(
                f"number of cells is {n}, but the label table asks for {counts.sum()}: leave one of them out"
            )
        return codes, counts
    if n is None:
        raise BadInput("`cells`: none given; expected a number of cells, or a label table")
    if not 1 <= n <= MOST_CELLS:
        raise BadInput(f"number of cells is {n}, expected 1 to {MOST_CELLS:,}")
    return _from_proportions(model, n, labels, seed)


def read_label_table(path: PathLike) -> pd.DataFrame:
    """Read a table of labels, in any form that `data_loaders.tables` knows; BadInput when it cannot be read."""
    if Path(path).exists() and not Path(path).is_file():
        raise BadInput(f"label table {path}: not a file")
    try:
        return read_table(path, names_first=False)
    except BadInput as error:
        raise BadInput(f"label table {error}") from error


def _from_table(model: TrainedModel, table: pd.DataFrame) -> tuple[Ints, Ints]:
    """Combinations and counts of a table with a column per attribute and, optionally, `n`."""
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise BadInput(f"label table: column {show(twice)} stands there twice")
    for column in table.columns:
        if column != "n" and column not in model.labels:
            raise BadInput(f"label table: unknown column {show(column)}, {nearest(column, [*model.labels, 'n'])}")
    for name in model.labels:
        if name not in table:
            raise BadInput(f"label table: column {name!r} is missing, found {', '.join(map(show, table.columns[:20]))}")
    codes = model.codes(pd.DataFrame({name: _texts(table, name) for name in model.labels}))
    counts = (
        pd.to_numeric(table["n"], errors="coerce").to_numpy(float, na_value=np.nan)
        if "n" in table
        else np.ones(len(table))
    )
    wrong = ~((counts >= 0) & (counts <= MOST_CELLS)) | (counts != np.floor(counts))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = table["n"].tolist()[row]
        raise BadInput(f"label table: n is {show(found)} in row {row}, expected a whole number, zero or more")
    if not 1 <= counts.sum() <= MOST_CELLS:
        raise BadInput(f"label table: it asks for {counts.sum():.0f} cells, expected 1 to {MOST_CELLS:,}")
    return codes, counts.astype(np.int64)


def _texts(table: pd.DataFrame, name: str) -> pd.Categorical:
    """A column of labels as text; whole numbers that are floats are '1', not '1.0'."""
    label = as_label(table[name])
    if (label.codes < 0).any():
        row = int(np.flatnonzero(label.codes < 0)[0])
        raise BadInput(f"label table: column {name!r} has no value in row {row}, expected a label for every cell")
    return label


def _from_proportions(model: TrainedModel, n: int, fixed: Mapping[str, str], seed: int) -> tuple[Ints, Ints]:
    """Draw how many cells each observed combination gets, some attributes being fixed."""
    names = list(model.labels)
    for name in fixed:
        if name not in names:
            raise BadInput(f"the model has no attribute {name!r}, {nearest(name, names)}")
        if not isinstance(fixed[name], str):
            raise BadInput(f"label {name} is {fixed[name]!r}, expected one category; a table asks for several")
    codes, observed = model.observed()
    weights: Array = observed.astype(np.float64)
    wanted = {names.index(name): int(model.codes_of(name, value)[0]) for name, value in fixed.items()}
    if wanted:
        matches = np.all([codes[:, k] == code for k, code in wanted.items()], axis=0)
        if matches.any():
            codes, weights = codes[matches], weights[matches]
        else:  # a combination never seen together: the other attributes are drawn as if independent of it
            for k, code in wanted.items():
                codes[:, k] = code
            codes, inverse = np.unique(codes, axis=0, return_inverse=True)
            weights = np.bincount(inverse.reshape(-1), weights=weights)
    counts = generator(seed, Generation.PLAN).multinomial(n, weights / weights.sum())
    return codes[counts > 0], counts[counts > 0]
