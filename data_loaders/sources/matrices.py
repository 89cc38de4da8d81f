"""Count matrices as they lie in files, read as blocks of bounded size: CSR, CSC, dense, and Matrix Market text.

Each class is a `sources.source.Matrix`. Its blocks are `(rows, csr)`: the cells' numbers, int64 (n,), and their values
(n, features). A cell may come in several blocks, each with other features: that is how CSC and Matrix Market files are
read in one pass.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import zarr
from scipy.sparse import coo_matrix, csr_matrix

from data_loaders.errors import DAMAGED, BadInput, readable
from data_loaders.hdf5 import check_filters
from data_loaders.sources.source import Block, Group, Matrix
from data_loaders.text_files import open_text
from data_loaders.types import Array, Ints, PathLike

BLOCK_VALUES = 1 << 22  # values read at a time


class CompressedMatrix:
    """CSR or CSC arrays in an HDF5 or Zarr group; `by_row` says which.

    Parameters
    ----------
    data, indices, indptr : array-like on disk
    shape : (int, int)
        Cells, features.
    """

    def __init__(self, name: str, data: Any, indices: Any, indptr: Any, shape: Sequence[int], *, by_row: bool) -> None:
        n_cells, n_features = (int(n) for n in shape)
        self.name, self.shape, self.by_row = name, (n_cells, n_features), by_row
        self._data, self._indices = data, indices
        self.arrays = {"data": data, "indices": indices, "indptr": indptr}  # as they lie on disk
        self.n_values = int(data.shape[0])
        with readable(name):
            self._indptr: Ints = indptr[:].astype(np.int64)
        n_major = self.shape[0] if by_row else self.shape[1]
        ends = (self._indptr[0], self._indptr[-1]) if len(self._indptr) else (0, -1)
        if len(self._indptr) != n_major + 1 or ends != (0, self.n_values) or indices.shape[0] != self.n_values:
            raise BadInput(
                f"{name}: indptr has {len(self._indptr)} entries up to {ends[1]}, for a shape of {self.shape} with "
                f"{self.n_values} values and {indices.shape[0]} indices; {DAMAGED}"
            )
        for array in (data, indices):  # Zarr reads a lost chunk as zeros; HDF5 does not
            if isinstance(array, zarr.Array) and array.nchunks_initialized < array.nchunks:
                raise BadInput(f"{name}: {array.name} has lost chunks; {DAMAGED}")
        if (np.diff(self._indptr) < 0).any():
            raise BadInput(f"{name}: indptr decreases; {DAMAGED}")

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        n_minor = self.shape[1] if self.by_row else self.shape[0]
        start = 0
        while start < len(self._indptr) - 1:
            stop = int(np.searchsorted(self._indptr, self._indptr[start] + BLOCK_VALUES, side="right")) - 1
            stop = max(stop, start + 1)
            first, last = self._indptr[start], self._indptr[stop]
            with readable(f"{self.name}, {'rows' if self.by_row else 'columns'} {start} to {stop}"):
                data, indices = native(self._data[first:last]), self._indices[first:last]
            if len(indices) and not 0 <= indices.min() <= indices.max() < n_minor:
                raise BadInput(f"{self.name}: index {indices.max()} is outside 0..{n_minor - 1}; {DAMAGED}")
            indices = indices.astype(np.int32 if n_minor <= 1 << 31 else np.int64, copy=False)
            lengths = np.diff(self._indptr[start : stop + 1])
            if self.by_row:
                block = csr_matrix((data, indices, np.append(0, np.cumsum(lengths))), shape=(stop - start, n_minor))
                block.sum_duplicates()
                yield np.arange(start, stop), block
            else:
                yield partial_rows(indices, np.repeat(np.arange(start, stop), lengths), data, self.shape[1])
            start = stop


class DenseMatrix:
    """A two-dimensional array in an HDF5 or Zarr group."""

    def __init__(self, name: str, array: Any) -> None:
        n_cells, n_features = array.shape
        self.name, self.shape, self._array = name, (n_cells, n_features), array
        self.arrays = {"values": array}  # as it lies on disk
        self.n_values = self.shape[0] * self.shape[1]

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        step = max(BLOCK_VALUES // max(self.shape[1], 1), 1)
        tall = self._array.chunks[0] if self._array.chunks else 1
        step = max(step // tall * tall, 1)  # whole storage chunks, where they are not larger than a block
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            with readable(f"{self.name}, rows {start} to {stop}"):
                values = native(self._array[start:stop])
            yield np.arange(start, stop), csr_matrix(values)


class MatrixMarket:
    """A coordinate Matrix Market file of features x cells, plain or gzipped, as 10x Genomics writes it.

    Entries of a `pattern` file, which has no values, are ones.
    """

    def __init__(self, path: PathLike) -> None:
        self.name, self._path = str(path), Path(path)
        with readable(self.name), self._open() as file:
            banner, self._skip = file.readline(), 1
            self._has_values = _of_banner(self.name, banner)
            line = file.readline()
            while line.startswith("%"):
                line = file.readline()
                self._skip += 1
            n_features, n_cells, self.n_values = (int(word) for word in line.split())
            self._skip += 1
        self.shape = (n_cells, n_features)
        self._is_turned = False

    def turn(self) -> None:
        """Take the file as cells x features."""
        self.shape, self._is_turned = (self.shape[1], self.shape[0]), True

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        seen = 0
        with readable(self.name), self._open() as file:
            for _ in range(self._skip):
                file.readline()
            columns = range(3 if self._has_values else 2)
            for table in pd.read_csv(file, sep=r"\s+", header=None, names=columns, chunksize=BLOCK_VALUES):
                gaps = table.isna().to_numpy().any(axis=1)
                if gaps.any():
                    entry = seen + int(gaps.argmax()) + 1
                    numbers_expected = "three numbers" if self._has_values else "two numbers"
                    raise BadInput(f"{self.name}: entry {entry:,} is not {numbers_expected}: it has NaN, or {DAMAGED}")
                if table.empty:
                    continue
                seen += len(table)
                features, cells = (table[column].to_numpy(np.int64) - 1 for column in (0, 1))
                if self._is_turned:
                    features, cells = cells, features
                for numbers, size, what in ((features, self.shape[1], "feature"), (cells, self.shape[0], "cell")):
                    if not 0 <= numbers.min() <= numbers.max() < size:
                        raise BadInput(f"{self.name}: a {what} number is outside 1..{size}; {DAMAGED}")
                values = table[2].to_numpy() if self._has_values else np.ones(len(table), np.uint8)
                yield partial_rows(cells, features, values, self.shape[1])
        if seen != self.n_values:
            raise BadInput(f"{self.name}: {seen:,} entries, its header promises {self.n_values:,}; {DAMAGED}")

    def _open(self) -> TextIO:
        """The file as text."""
        return open_text(self._path)


def _of_banner(name: str, banner: str) -> bool:
    """Whether a Matrix Market file has values beside the places, by its first line; BadInput where it has no counts."""
    words = [*banner.lower().split(), *[""] * 5]
    if words[:2] != ["%%matrixmarket", "matrix"]:
        raise BadInput(f"{name}: starts with {banner.strip()[:40]!r}; expected a Matrix Market coordinate file")
    layout, field, symmetry = words[2:5]
    if layout != "coordinate":
        raise BadInput(
            f"{name}: a Matrix Market file of layout {layout!r}; expected 'coordinate', as scipy.io.mmwrite writes "
            "a sparse matrix"
        )
    if field not in ("integer", "real", "pattern", "double", "unsigned-integer"):
        raise BadInput(f"{name}: a Matrix Market file of field {field!r}; expected integer, real or pattern")
    if symmetry not in ("general", ""):
        raise BadInput(
            f"{name}: a Matrix Market file of symmetry {symmetry!r}, which is a matrix of one thing against itself; "
            "expected 'general', features x cells"
        )
    return field != "pattern"


def native(values: Array) -> Array:
    """Values in a type that scipy.sparse takes: this machine's byte order, no half precision."""
    return values.astype(np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("="), copy=False)


def partial_rows(cells: Ints, features: Ints, values: Array, n_features: int) -> Block:
    """`(rows, csr)` of loose entries: only the cells that occur."""
    rows, local = np.unique(cells, return_inverse=True)
    block = coo_matrix((values, (local, features)), shape=(len(rows), n_features)).tocsr()
    return rows, block


def open_matrix(name: str, element: Group) -> Matrix:
    """The matrix of an AnnData element (HDF5 or Zarr, array or sparse group).

    Raises
    ------
    BadInput
        When it is of no known kind.
    """
    check_filters(name, element)
    if hasattr(element, "shape"):
        if len(element.shape) != 2:
            raise BadInput(f"{name}: an array of {len(element.shape)} dimensions; expected cells x genes")
        return DenseMatrix(name, element)
    kind = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind.removesuffix("_matrix") not in ("csr", "csc"):
        raise BadInput(f"{name}: of encoding {kind!r}; expected an array, csr_matrix or csc_matrix")
    with readable(name):
        data, indices, indptr = (element[part] for part in ("data", "indices", "indptr"))
        shape = element.attrs["shape"] if "shape" in element.attrs else element.attrs["h5sparse_shape"]
    return CompressedMatrix(name, data, indices, indptr, shape, by_row=kind.startswith("csr"))
