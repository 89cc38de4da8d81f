"""One CSR matrix of a store, written as its rows come; its column statistics are summed on the way."""

import numba
import numpy as np
import pandas as pd
import zarr

from data_loaders.reading.rows import SparseRows
from data_loaders.statistics.csr import Csr
from data_loaders.statistics.sums import GeneMoments
from data_loaders.types import Array, Bools, Floats, Ints
from data_loaders.writing.arrays import ArrayAppender

LARGEST = np.iinfo(np.int32).max


class MatrixWriter:
    """Append CSR slices to a Zarr group in AnnData's encoding.

    Parameters
    ----------
    group : zarr.Group
        Empty.
    var : pandas.DataFrame
        Its index names the columns.

    Attributes
    ----------
    n_rows, nnz, largest : int
        Rows and values written so far, and the largest value.
    """

    def __init__(self, group: zarr.Group, var: pd.DataFrame) -> None:
        self._group, self.var = group, var
        self.n_rows = self.nnz = self.largest = 0
        self._moments = GeneMoments(len(var))
        self._data = ArrayAppender(group, "data", np.uint8)
        self._indices = ArrayAppender(group, "indices", np.uint16 if len(var) <= 1 << 16 else np.uint32)
        self._indptr = ArrayAppender(group, "indptr", np.int64)
        self._indptr.append([0])

    def append(self, counts: Csr, training: Bools) -> Floats:
        """Add rows.

        Parameters
        ----------
        counts : scipy CSR or SparseRows (n, columns)
            Columns sorted within each row, no stored zeros, positive integers below 2^31.
        training : bool (n,)
            The rows that enter mean and variance.

        Returns
        -------
        float64 (n,)
            Sum of each row.

        Raises
        ------
        ValueError
            When the slice breaks these rules: a fault of the caller, not of the user.
        """
        data, indices, indptr = counts.data, counts.indices, np.asarray(counts.indptr, np.int64)
        if len(indptr) != len(training) + 1:
            raise ValueError(f"{len(indptr) - 1} rows of counts but {len(training)} rows of obs")
        largest, sums = _check_rows(data, indices, indptr, len(self.var))
        if largest > LARGEST:
            raise ValueError(f"counts go up to {LARGEST:,}, what every reader holds; found {largest:,}")
        if largest > np.iinfo(self._data.dtype).max:
            self._data.promote(np.min_scalar_type(largest))
        self._data.append(data)
        self._indices.append(indices)
        self._indptr.append(indptr[1:] + self.nnz)
        self._moments.add_counted(SparseRows(data, indices, indptr, len(self.var)), training)
        self.n_rows += len(training)
        self.nnz += len(data)
        self.largest = max(self.largest, largest)
        return sums

    def facts(self) -> dict[str, int]:
        """What the card tells of the matrix."""
        return {"n_rows": self.n_rows, "n_features": len(self.var), "nnz": self.nnz, "largest": self.largest}

    def close(self) -> pd.DataFrame:
        """Write what is left, and return `var` with `n_cells`, `mean` and `variance` of each column."""
        for column in (self._data, self._indices, self._indptr):
            column.close()
        self._group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        self._group.attrs["shape"] = [self.n_rows, len(self.var)]
        var = self.var.copy(deep=False)
        var["n_cells"] = self._moments.nonzero
        var["mean"], var["variance"] = self._moments.mean(), self._moments.variance()
        return var


def _check_rows(data: Array, indices: Ints, indptr: Ints, n_columns: int) -> tuple[int, Floats]:
    """Largest count and row sums (n,), float64, of a CSR slice that must be canonical."""
    sums = np.zeros(len(indptr) - 1)
    largest, positive, sorted_within = _scan(data, indices, indptr, n_columns, sums)
    if not positive:
        raise ValueError("counts must be whole numbers above 0, and zeros are not stored")
    if not sorted_within:
        raise ValueError(f"column numbers must increase within each row and lie within 0..{n_columns - 1}")
    return int(largest), sums


@numba.njit(nogil=True, cache=True)
def _scan(data: Array, indices: Ints, indptr: Ints, n_columns: int, sums: Floats) -> tuple[float, bool, bool]:
    """Largest count, whether all are whole and positive, whether columns increase within bounds; fills `sums`."""
    largest, positive, sorted_within = 0.0, True, True
    for row in range(len(sums)):
        previous = -1
        for k in range(indptr[row], indptr[row + 1]):
            value, column = float(data[k]), int(indices[k])
            positive &= value >= 1 and value == np.floor(value)
            sorted_within &= previous < column < n_columns
            previous = column
            sums[row] += value
            largest = max(largest, value)
    return largest, positive, sorted_within
