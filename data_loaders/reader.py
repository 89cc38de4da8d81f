"""Readers: any rows of a matrix on disk, in the order asked."""

import h5py
import numpy as np

from data_loaders.errors import BadInput
from data_loaders.rows import DenseRows, SparseRows, offsets

INCOMPLETE = "the store is damaged or still being written"


def matrix_reader(element, name):
    """The reader of an AnnData matrix, `element` a Zarr or HDF5 group (CSR) or array (dense).

    Raises
    ------
    BadInput
        When the matrix is of another kind or its arrays do not fit each other.
    """
    kind = str(element.attrs.get("encoding-type", "array"))
    if kind == "csr_matrix":
        return CsrReader(element, name)
    if kind == "array":
        return DenseReader(element, name)
    raise BadInput(f"{name} is a {kind}; expected rows that can be read one by one: a csr_matrix or a dense array")


class CsrReader:
    """Rows of a CSR matrix.

    Attributes
    ----------
    n_features : int
    indptr : int64 array (n + 1,)
    row_bytes : float
        Mean bytes of a row in memory.
    """

    def __init__(self, group, name):
        self.name = name
        for part in ("data", "indices", "indptr"):
            if part not in group:
                raise BadInput(f"{name}: its array {part} is missing; {INCOMPLETE}")
        n, self.n_features = (int(size) for size in group.attrs["shape"])
        self._data, self._indices = group["data"], group["indices"]
        self.indptr = group["indptr"][:].astype(np.int64, copy=False)
        self._check(n)
        self.index_dtype = np.min_scalar_type(max(self.n_features - 1, 0))
        self.index_dtype = np.dtype(np.uint16) if self.index_dtype.itemsize < 2 else self.index_dtype
        self.row_bytes = self.indptr[-1] / max(n, 1) * (self._data.dtype.itemsize + self.index_dtype.itemsize) + 8

    def _check(self, n):
        indptr, nnz = self.indptr, self._data.shape[0]
        if len(indptr) != n + 1 or (n and (indptr[0] != 0 or (np.diff(indptr) < 0).any())):
            raise BadInput(f"{self.name}/indptr does not describe {n} rows; {INCOMPLETE}")
        if self._indices.shape[0] != nnz or indptr[-1] != nnz:
            raise BadInput(
                f"{self.name}: indptr ends at {indptr[-1]}, data has {nnz} values, indices {self._indices.shape[0]}; "
                f"{INCOMPLETE}"
            )

    def __len__(self):
        return len(self.indptr) - 1

    def read(self, rows):
        """Read rows, int64 (B,), any order: SparseRows."""
        unique, back = np.unique(rows, return_inverse=True)
        edges = np.flatnonzero(np.diff(unique) != 1) + 1
        runs = [(run[0], run[-1] + 1) for run in np.split(unique, edges) if len(run)]
        spans = [slice(self.indptr[start], self.indptr[stop]) for start, stop in runs]
        data, indices = (
            np.concatenate([array[span] for span in spans] or [np.empty(0, array.dtype)])
            for array in (self._data, self._indices)
        )
        lengths = np.diff(self.indptr)[unique]
        rows = SparseRows(data, indices.astype(self.index_dtype, copy=False), offsets(lengths), self.n_features)
        return rows.take(back)


class DenseReader:
    """Rows of a dense matrix (n, n_features)."""

    def __init__(self, array, name):
        if not isinstance(array, h5py.Dataset) and not hasattr(array, "chunks"):
            raise BadInput(f"{name} is not an array")
        self.name, self._array = name, array
        if array.ndim != 2:
            raise BadInput(f"{name} has shape {array.shape}; expected a matrix")
        self.n_features = array.shape[1]
        self.row_bytes = self.n_features * array.dtype.itemsize

    def __len__(self):
        return self._array.shape[0]

    def read(self, rows):
        """Read rows, int64 (B,), any order: DenseRows."""
        unique, back = np.unique(rows, return_inverse=True)
        edges = np.flatnonzero(np.diff(unique) != 1) + 1
        parts = [self._array[run[0] : run[-1] + 1] for run in np.split(unique, edges) if len(run)]
        values = np.concatenate(parts or [np.empty((0, self.n_features), self._array.dtype)])
        return DenseRows(values.take(back, axis=0))
