"""`CellSet`: cells seen through the space of the real ones, with everything that scores are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from scipy import sparse

from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.spaces import AnySpace
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfSpace
from data_loaders.types import Array, Floats, Ints

ReadCounts = Callable[[Ints], sparse.csr_matrix]  # counts (n, G) of the cells at some positions


@dataclass(eq=False)
class CellSet:
    """Cells of one set: the test cells, a generated set, or a set of the floor.

    Attributes
    ----------
    codes : int array (n,)
        Type of each cell, a position in the sorted names of all types.
    pcs : float64 array (n, C)
        Components; memory-mapped when the set was made in shards.
    sums : float64 array (K, C)
        Sum of the components of the cells of each type.
    cells : int64 array (K,)
        Cells of each type.
    profile : Profile
    read : callable
        `read(positions)` gives the counts (CSR) of some cells of the set.
    by_type : scipy CSR int64 (K, G), optional
        Sum of the counts of the cells of each type; without rows for accessibility.
    store : int64 array (K,), optional
        Cells of each type in the store that the set was drawn from; None when it is all of it.
    """

    codes: Ints
    pcs: Floats
    sums: Floats
    cells: Ints
    profile: Profile
    read: ReadCounts
    by_type: sparse.csr_matrix | None = None
    store: Ints | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def scan(
        cls, read: ReadCounts, codes: Ints, n_types: int, space: AnySpace, n_genes: int, *, centred: bool = True
    ) -> CellSet:
        """Read all cells once, block by block.

        Parameters
        ----------
        read : callable
        codes : int array (n,)
        n_types : int
            K.
        space : AnySpace
        n_genes : int
        centred : bool
            Whether the mean of the real cells is taken off the components.
        """
        profile, parts = Profile(n_genes), []
        by_type = np.zeros((0 if isinstance(space, TfIdfSpace) else n_types, n_genes), np.int64)
        for start in range(0, len(codes), BLOCK):
            counts = read(np.arange(start, min(start + BLOCK, len(codes))))
            profile.add(counts)
            if len(by_type):
                add_by_type(counts, codes[start : start + BLOCK], by_type)
            parts.append(space.project(counts, centred=centred))
        pcs = np.concatenate(parts) if parts else np.empty((0, space.loadings.shape[1]))
        sums = np.zeros((n_types, pcs.shape[1]))
        np.add.at(sums, codes, pcs)
        return cls(codes, pcs, sums, np.bincount(codes, minlength=n_types), profile, read, sparse.csr_matrix(by_type))

    @property
    def in_store(self) -> Ints:
        """Cells of each type (K,) in the store that the set was drawn from."""
        return self.cells if self.store is None else self.store

    def of_type(self, code: int | np.integer | None = None) -> Ints:
        """Positions of the cells of a type; of all cells when there is no code."""
        return np.arange(len(self)) if code is None else np.flatnonzero(self.codes == code)

    def mean(self, code: int | np.integer | None = None) -> Floats:
        """Mean components (C,) of the cells of a type, or of all."""
        if code is None:
            return self.sums.sum(axis=0) / self.cells.sum()
        return self.sums[code] / self.cells[code]

    def points(self, positions: Ints) -> Points:
        """Components of some cells, read when they are asked for."""
        return Points(self.pcs, positions)

    def cloud(self, code: int | np.integer | None = None) -> Cloud:
        """The cells of a type, or all of them, as points."""
        return Cloud(self.points(self.of_type(code)), self.mean(code))


def add_by_type(counts: sparse.csr_matrix, codes: Ints, sums: Ints) -> None:
    """Add the counts (n, G) of the cells of each type to `sums`, int64 (K, G)."""
    _add_by_type(counts.data, counts.indices, counts.indptr, codes, sums)


@numba.njit(nogil=True, cache=True)
def _add_by_type(data: Array, indices: Ints, indptr: Ints, codes: Ints, sums: Ints) -> None:
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            sums[codes[row], indices[k]] += int(data[k])


@dataclass(frozen=True, eq=False)
class Cloud:
    """Cells as points in the space: those of one type, or all of a set.

    Attributes
    ----------
    points : Points (n, C)
    mean : float64 array (C,)
    """

    points: Points
    mean: Floats


class Points:
    """Rows of an array that may be larger than memory; indexing reads them."""

    def __init__(self, values: Floats, rows: Ints) -> None:
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, C)."""
        return len(self.rows), self.values.shape[1]

    def __getitem__(self, chosen: Ints | slice) -> Floats:
        return np.asarray(self.values[self.rows[chosen]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self[:] if dtype is None else self[:].astype(dtype)
