"""How many cells of each combination of labels: from a table, or drawn as observed with some attributes fixed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.records import one_line, read_regular, show
from data_loaders.seeds import Generation, generator
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
    """Read a CSV or Parquet table of labels; BadInput when it cannot be read."""
    name = f"label table {path}"
    try:
        file = io.BytesIO(read_regular(path, name, MOST_BYTES))
        return (
            pd.read_parquet(file)
            if str(path).endswith(".parquet")
            else pd.read_csv(file, dtype=str, keep_default_na=False, compression=_compression(path))
        )
    except FileNotFoundError:
        raise BadInput(f"{name} does not exist") from None
    except BadInput:
        raise
    except (ValueError, OSError, EOFError, RuntimeError, LookupError, TypeError, zlib.error) as error:
        raise BadInput(f"{name} cannot be read: {one_line(error)}") from error


def _compression(path: PathLike) -> Literal["gzip", "bz2", "zip", "xz", "zstd", "tar"] | None:
    """What the ending of a file says of how it is packed, as pandas would take it."""
    endings = {".gz": "gzip", ".bz2": "bz2", ".zip": "zip", ".xz": "xz", ".zst": "zstd", ".tar": "tar"}
    return endings.get(Path(path).suffix)  # type: ignore[return-value]


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
    codes = model.codes(table.astype(dict.fromkeys(model.labels, str)))
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


def _from_proportions(model: TrainedModel, n: int, fixed: Mapping[str, str], seed: int) -> tuple[Ints, Ints]:
    """Draw how many cells each observed combination gets, some attributes being fixed."""
    names = list(model.labels)
    for name in fixed:
        if name not in names:
            raise BadInput(f"the model has no attribute {name!r}, {nearest(name, names)}")
        if not isinstance(fixed[name], str):
            raise BadInput(f"label {name} is {fixed[name]!r}, expected one category; a table asks for several")
    codes = model.combinations.copy()
    weights: Array = model.counts.astype(np.float64)
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
