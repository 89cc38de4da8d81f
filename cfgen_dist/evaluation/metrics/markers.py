"""Marker features by type, and whether generated cells of a type express, or open, what its real cells do.

Both the markers and their mean levels come from sums over the cells of each type, in memory or in shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.evaluation.spaces.log_normalised import BLOCK
from data_loaders.errors import BadInput, nearest
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.storage import local_copy, shown
from data_loaders.storage.opened import NoAnswer
from data_loaders.types import Array, Floats, Ints, PathLike

N_MARKERS = 10  # a type
FEWEST_CELLS = 3  # of a type: markers and means of fewer are noise


class LevelSums:
    """Of each type: its cells, and sums and sums of squares of the levels of some features.

    The level of a feature in a cell is its log1p of counts scaled to 1e4 a cell; with `binary`, 1 where it is open.

    Parameters
    ----------
    n_types : int
        K.
    columns : int array (F,)
        The features.
    binary : bool
    """

    def __init__(self, n_types: int, columns: Ints, binary: bool) -> None:
        self.n_types, self.columns, self.binary = n_types, columns, binary
        self.cells = np.zeros(n_types, np.int64)
        self.total, self.squares = np.zeros((n_types, len(columns))), np.zeros((n_types, len(columns)))

    @classmethod
    def of(cls, counts: sparse.spmatrix | Array, codes: Ints, n_types: int, columns: Ints, binary: bool) -> LevelSums:
        """The sums of counts in memory (n, G), block by block."""
        sums, counts = cls(n_types, columns, binary), sparse.csr_matrix(counts)
        for start in range(0, counts.shape[0], BLOCK):
            sums.add(counts[start : start + BLOCK], codes[start : start + BLOCK])
        return sums

    def add(self, counts: sparse.csr_matrix, codes: Ints) -> None:
        """Add raw counts, scipy CSR (n, G), of cells of types `codes` (n,)."""
        if self.binary:
            values = counts[:, self.columns].sign().astype(np.float64)
        else:
            values = log_normalise(counts, self.columns)
        n, k = len(codes), self.n_types
        members = sparse.csr_matrix((np.ones(n), (codes, np.arange(n))), shape=(k, n))
        self.cells += np.bincount(codes, minlength=k)
        self.total += (members @ values).toarray()
        self.squares += (members @ values.multiply(values)).toarray()

    def merge(self, other: LevelSums) -> LevelSums:
        """Add the sums of other cells and return self."""
        for name in ("cells", "total", "squares"):
            getattr(self, name)[:] += getattr(other, name)
        return self

    def means(self) -> Floats:
        """Mean levels (K, F); zero for a type without cells."""
        return self.total / np.maximum(self.cells, 1)[:, None]

    def kinds(self) -> Ints:
        """Codes of the types with enough cells."""
        return np.flatnonzero(self.cells >= FEWEST_CELLS)


def find_markers(
    counts: sparse.spmatrix, labels: Sequence | Array, features: Sequence[str], *, binary: bool = False,
    n: int = N_MARKERS,
) -> pd.DataFrame:  # fmt: skip
    """The features that set each type apart from all others, by scanpy's t-test (`t-test_overestim_var`).

    Parameters
    ----------
    counts : scipy sparse (cells, features)
        Raw counts of training cells.
    labels : sequence (cells,)
    features : sequence of str
    binary : bool
        Compare shares of open cells in place of log-normalised counts.
    n : int
        Markers a type.

    Returns
    -------
    pandas.DataFrame
        Columns `type`, `feature`; types with fewer than three cells are left out.

    Raises
    ------
    BadInput
        Fewer than two types with enough cells.
    """
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    sums = LevelSums.of(counts, codes, len(names), np.arange(counts.shape[1]), binary)
    if len(sums.kinds()) < 2:
        raise BadInput(f"markers: {len(sums.kinds())} types with at least {FEWEST_CELLS} cells, expected two or more")
    return best_markers(sums, names, features, n)


def best_markers(sums: LevelSums, names: Array, features: Sequence[str], n: int = N_MARKERS) -> pd.DataFrame:
    """As `find_markers`, of the sums of the training cells over all features; empty for fewer than two types."""
    kinds = sums.kinds()
    if len(kinds) < 2:
        return pd.DataFrame({"type": [], "feature": []}, dtype=str)
    names_of_features = np.asarray(pd.Index(features).astype(str))
    in_all = [getattr(sums, name)[kinds].sum(axis=0) for name in ("cells", "total", "squares")]
    tables = []
    for kind in kinds:
        in_type = [getattr(sums, name)[kind] for name in ("cells", "total", "squares")]
        mean, variance = _moments(*in_type)
        other_mean, other_variance = _moments(*(a - b for a, b in zip(in_all, in_type, strict=True)))
        # The variance of the others is overestimated: as if they were as few cells as the type has.
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (mean - other_mean) / np.sqrt((variance + other_variance) / in_type[0])
        best = np.argsort(-np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf).round(9), kind="stable")[:n]
        tables.append(pd.DataFrame({"type": str(names[kind]), "feature": names_of_features[best]}))
    return pd.concat(tables, ignore_index=True)


def _moments(n: int, total: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """Mean and variance, divided by n - 1."""
    mean = total / n
    return mean, np.maximum(squares - n * mean**2, 0.0) / max(n - 1, 1)


def read_markers(path: PathLike) -> pd.DataFrame:
    """A marker table: CSV with columns `type` and `feature`; BadInput when it is none."""
    try:
        with local_copy(path) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except NoAnswer:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{shown(path)}: cannot be read as a table ({' '.join(str(error).split())})") from error
    for name in ("type", "feature"):
        if name not in table:
            raise BadInput(f"{shown(path)}: no column {name!r}; {nearest(name, table.columns)}")
    if table.empty:
        raise BadInput(f"{shown(path)}: a table without markers; expected columns type and feature")
    return table[["type", "feature"]]


def marker_correlation(
    real: sparse.spmatrix, real_labels: Sequence | Array, other: sparse.spmatrix, other_labels: Sequence | Array,
    features: Sequence[str], markers: pd.DataFrame, *, binary: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Pearson correlation, type by type, of the mean levels of all markers in real and in other cells.

    The level of a gene is its mean log1p of counts scaled to 1e4 a cell; with `binary`, that of a peak is the share of
    cells in which it is open. Each type is compared over the markers of all types: its own must be high, the rest low.

    Parameters
    ----------
    real, other : scipy sparse (cells, features)
        Raw counts.
    real_labels, other_labels : sequence
    features : sequence of str
    markers : pandas.DataFrame
        Columns `type`, `feature`.
    binary : bool

    Returns
    -------
    pandas.DataFrame
        Index: types with at least three cells on both sides. Columns: `r` over the markers, `cells` (of the other set).

    Raises
    ------
    BadInput
        A marker that is not among the features.
    """
    columns = marker_columns(markers, features)
    names, codes = np.unique(np.concatenate([real_labels, other_labels]).astype(str), return_inverse=True)
    first, second = (
        LevelSums.of(counts, part, len(names), columns, binary)
        for counts, part in zip((real, other), np.split(codes, [len(real_labels)]), strict=True)
    )
    return level_correlation(first, second, names)


def marker_columns(markers: pd.DataFrame, features: Sequence[str]) -> Ints:
    """Positions of all markers among the features, each once; BadInput for one that is not there."""
    known = pd.Index(features).astype(str)
    chosen = pd.unique(markers["feature"].astype(str))
    columns = known.get_indexer(chosen)
    if (columns < 0).any():
        unknown = chosen[columns < 0][0]
        raise BadInput(f"`markers`: no feature {unknown!r}, {nearest(unknown, known)}")
    return columns


def level_correlation(real: LevelSums, other: LevelSums, names: Array) -> pd.DataFrame:
    """As `marker_correlation`, of the sums of two sets over all markers; `names` (K,) are those of the types."""
    kinds = np.intersect1d(real.kinds(), other.kinds())
    first, second = real.means(), other.means()
    rows = {
        str(names[kind]): {"r": _pearson(first[kind], second[kind]), "cells": int(other.cells[kind])} for kind in kinds
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["r", "cells"])


def _pearson(a: Floats, b: Floats) -> float:
    """NaN where one side does not vary."""
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
