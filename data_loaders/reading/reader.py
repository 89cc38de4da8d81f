"""Readers: any rows of a matrix on disk, in the order asked.

How it is done. The rows asked for are sorted, and the chunks that hold them are grouped into runs that one request can
read. Each run is one task of a small thread pool: read, decode into a buffer that fits the processor's cache, and copy
every piece of a row from there straight to its final place in the result. Nothing is copied twice and the result is the
only thing that grows; beside it a thread holds one run (1 MiB decoded, and its encoded bytes).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from data_loaders.errors import BadInput
from data_loaders.parallel import run_all
from data_loaders.reading.buffers import Buffers
from data_loaders.reading.byte_ranges import ByteSource
from data_loaders.reading.chunks import Chunks, DiskArray, ZarrChunks, open_chunks
from data_loaders.reading.rows import DenseRows, SparseRows, compacted, offsets
from data_loaders.reading.value_checks import Naming, inverse, refuse_faults
from data_loaders.types import Array, Ints

NARROW = np.dtype(np.uint16)  # counts in wider types are narrowed to it while they all fit
WIDE = np.dtype(np.uint32)  # and what counts of others become when they do not
SLICE = 1 << 16  # rows checked at once
INCOMPLETE = "the store is damaged or still being written"
DiskGroup: TypeAlias = Any  # zarr.Group or h5py.Group, which are used alike


def matrix_reader(
    element: DiskGroup | DiskArray, source: ByteSource | None, name: str, named: Naming | None = None
) -> "CsrReader | DenseReader":
    """The reader of an AnnData matrix.

    Parameters
    ----------
    element : Zarr or HDF5 group (CSR) or array (dense)
    source : byte source or None
        Where the files of a Zarr store are.
    name : str
        For messages.
    named : callable, optional
        What places are called: the values are then checked, see `reading.value_checks`.

    Raises
    ------
    BadInput
        When the matrix is of another kind or its arrays do not fit each other.
    """
    kind = str(element.attrs.get("encoding-type", "array"))
    if kind == "csr_matrix":
        parts = {part: element[part] for part in ("data", "indices", "indptr") if part in element}
        return CsrReader(parts, element.attrs["shape"], source, name, named)
    if kind == "array" and hasattr(element, "shape") and len(element.shape) == 2:
        return DenseReader(element, source, name, named)
    raise BadInput(
        f"{name} is a {kind}; expected rows that can be read one by one, a csr_matrix or a dense matrix; "
        "`ingest()` makes a store of it"
    )


class CsrReader:
    """Rows of a CSR matrix.

    Parameters
    ----------
    parts : dict
        The arrays `data`, `indices` and `indptr`, of Zarr or HDF5.
    shape : (int, int)
    source, name, named
        See `matrix_reader`.
    kept : int64 array, optional
        The columns that are read, all when left out.

    Attributes
    ----------
    n_features : int
    columns : int64 array or None
        Stored column → column as read, -1 for one that is left out.
    indptr : int64 array (n + 1,)
    row_bytes : float
        Mean bytes of a row in memory.

    Notes
    -----
    Stores that other programs wrote keep counts as float32 or int64. They are returned as uint16 while all that were
    read are at most 65,535, and as uint32 from the first read that meets a larger one on.
    """

    block_rows: int | None = None

    def __init__(
        self,
        parts: Mapping[str, DiskArray],
        shape: Sequence[int],
        source: ByteSource | None,
        name: str,
        named: Naming | None = None,
        kept: Ints | None = None,
    ) -> None:
        self.name, self._named = name, named
        for part in ("data", "indices", "indptr"):
            if part not in parts:
                raise BadInput(f"{name}: its array {part} is missing; {INCOMPLETE}")
        n, self._n_stored = (int(size) for size in shape)
        self.n_features = self._n_stored if kept is None else len(kept)
        self.columns = None if kept is None else inverse(kept, self._n_stored)
        chunks = {part: open_chunks(array, source, f"{name}/{part}") for part, array in parts.items()}
        self._data, self._indices = chunks["data"], chunks["indices"]
        self._threads = source.threads if source is not None else 1
        self._run_bytes = source.run_bytes if source is not None else 1 << 22
        self._far = source if source is not None and source.is_far else None
        self._buffers = Buffers()
        self.indptr = read_whole(chunks["indptr"], self._threads).astype(np.int64, copy=False)
        self._check(n)
        if isinstance(self._indices, ZarrChunks):
            self._indices.zeros_expected = self._one_a_row
        self._index_dtype: np.dtype[Any] = np.dtype(np.uint16 if self._n_stored <= 1 << 16 else np.uint32)
        self._count_dtype: np.dtype[Any] = self._narrowest()
        value_bytes = self._count_dtype.itemsize + self._index_dtype.itemsize
        self.row_bytes: float = self.indptr[-1] / max(n, 1) * value_bytes + 8

    def _check(self, n: int) -> None:
        indptr, nnz = self.indptr, self._data.n
        if len(indptr) != n + 1 or indptr[0] != 0 or not all(self._are_lengths(start) for start in range(0, n, SLICE)):
            raise BadInput(f"{self.name}/indptr does not describe {n} rows; {INCOMPLETE}")
        if self._indices.n != nnz or indptr[-1] != nnz:
            raise BadInput(
                f"{self.name}: indptr ends at {indptr[-1]}, data at {nnz}, indices at {self._indices.n}; {INCOMPLETE}"
            )

    def _are_lengths(self, start: int) -> bool:
        """Whether the rows from `start` on have possible lengths; a slice at a time, to need no memory for all n."""
        lengths = np.diff(self.indptr[start : start + SLICE + 1])
        return bool(0 <= lengths.min() <= lengths.max() <= self._n_stored)

    def _narrowest(self) -> np.dtype[Any]:
        """uint16 for wide counts, judged by the first chunk; the type of the store where that will not do."""
        stored = self._data.dtype
        if self._named is not None and stored.kind != "u":
            return NARROW
        if stored.itemsize <= NARROW.itemsize or self._data.n == 0:
            return stored
        return NARROW if self._data.read(0, 1).max() <= 65535 else self._widest

    def _one_a_row(self, start: int, stop: int) -> bool:
        """Whether no two of the values [start, stop) are in one row: only then can all of them be in column 0."""
        owners = np.searchsorted(self.indptr, np.arange(start, stop), side="right")
        return bool((np.diff(owners) > 0).all())

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the counts in the store."""
        return self._data.dtype

    @property
    def dtypes(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """Types of the counts and of the columns, as `read` returns them."""
        return self._count_dtype, self._index_dtype

    @property
    def _widest(self) -> np.dtype[Any]:
        stored = self._data.dtype
        return stored if self._named is None or (stored.kind == "u" and stored.itemsize < WIDE.itemsize) else WIDE

    def widen(self) -> np.dtype[Any]:
        """Return counts in the widest type from now on, and that type."""
        self._count_dtype = self._widest
        return self._count_dtype

    def read(self, rows: Ints) -> SparseRows:
        """Read rows, int64 (B,), any order.

        Raises
        ------
        BadInput
            When a chunk is missing or damaged.
        """
        try:
            return self._read(rows)
        except WideCounts:
            pass  # and the memory that was filled is free again
        self.widen()
        return self._read(rows)

    def expect(self, rows: Ints) -> None:
        """Have the bytes of rows that will be read be fetched meanwhile, where they are far away."""
        if self._far is None:
            return
        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] < stops[order]]
        fetch_runs((self._data, self._indices), starts[order], stops[order], self._run_bytes, self._threads)

    def drop_expected(self) -> None:
        """Let go of what was fetched and not read."""
        if self._far is not None:
            self._far.drop_expected()

    def _read(self, rows: Ints) -> SparseRows:
        indptr = offsets(self.indptr[rows + 1] - self.indptr[rows])
        data, indices = (self._buffers.empty(indptr[-1], dtype) for dtype in self.dtypes)
        self.fill(rows, indptr[:-1], data, indices)
        read = SparseRows(data, indices, indptr, self.n_features)
        if self.columns is None:
            return read
        from data_loaders.reading.kernels import map_columns

        return compacted(read, map_columns(data, indices, indptr[:-1], np.diff(indptr), self.columns))

    def fill(self, rows: Ints, targets: Ints, data: Array, indices: Ints) -> None:
        """Read rows to where `targets` (B,) says that each begins in `data` and `indices`, stored columns.

        Raises
        ------
        WideCounts
            When `data` is uint16 and a count does not fit.
        BadInput
            When values are checked and one is no count.
        """
        from data_loaders.reading.kernels import scatter_counts, scatter_pieces

        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        order = np.argsort(starts, kind="stable")
        order = order[starts[order] < stops[order]]
        starts, stops, targets = starts[order], stops[order], targets[order]

        def load(chunks: Chunks, out: Array, limit: int, first: int, stop: int, low: int, high: int) -> None:
            values = chunks.read(first, stop)
            base = first * chunks.chunk_len
            where = starts[low:high], stops[low:high], targets[low:high]
            if limit == 0 and out.dtype == NARROW and not _holds(NARROW, values.dtype):
                if scatter_counts(values, base, *where, out):
                    raise WideCounts
            elif limit == 0 and self._named is not None and not _holds(out.dtype, values.dtype):
                self._scatter_wide(values, base, where, out)
            elif scatter_pieces(values, base, *where, out, limit):
                raise BadInput(f"{chunks.name}: chunks {first} to {stop - 1} name columns beyond {limit}; {INCOMPLETE}")

        tasks: list[tuple[Chunks, Array, int, int, int, int, int]] = []
        for chunks, out, limit in ((self._data, data, 0), (self._indices, indices, self._n_stored)):
            tasks += [(chunks, out, limit, *run) for run in plan_runs(chunks, starts, stops, self._run_bytes)]
        for chunks, _, _, first, stop, _, _ in tasks:
            chunks.expect(first, stop)
        run_all(load, tasks, self._threads)

    def _scatter_wide(self, values: Array, base: int, where: tuple[Ints, Ints, Ints], out: Array) -> None:
        """Copy pieces of counts to `out`, uint32; values that are whole but for what `fault` allows are rounded."""
        from data_loaders.reading.kernels import scatter_wide_counts

        if scatter_wide_counts(values, base, *where, out):
            assert self._named is not None
            refuse_faults(self.name, self._named, self._pieces(values, base, *where[:2]))
            scatter_wide_counts(np.rint(values), base, *where, out)

    def _pieces(self, values: Array, base: int, starts: Ints, stops: Ints) -> Iterator[tuple[Array, Any]]:
        """The parts of rows in `values`, as `refuse_faults` takes them, in the order of the store."""
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            low, high = max(start, base), min(stop, base + len(values))

            def place(at: int, low: int = low) -> tuple[int, int]:
                row = int(np.searchsorted(self.indptr, low + at, side="right")) - 1
                chunk, inside = divmod(low + at, self._indices.chunk_len)
                column = int(self._indices.read(chunk, chunk + 1)[inside])
                return row, column if self.columns is None else int(self.columns[column])

            yield values[low - base : high - base].copy(), place


class WideCounts(Exception):
    """A value that is no whole number from 0 to 65,535 was met while narrowing. Never leaves the readers."""


class DenseReader:
    """Rows of a dense matrix (n, n_features); parameters as in `CsrReader`."""

    block_rows: int | None = None

    def __init__(
        self,
        array: DiskArray,
        source: ByteSource | None,
        name: str,
        named: Naming | None = None,
        kept: Ints | None = None,
    ) -> None:
        self.name, self._named, self._kept = name, named, kept
        self._chunks = open_chunks(array, source, name)
        self._n, self._n_stored = (int(size) for size in array.shape)
        self.n_features = self._n_stored if kept is None else len(kept)
        stored = self._chunks.dtype
        # wide integers of others are counts, which fit in fewer bytes
        self._dtype = WIDE if named is not None and stored.kind in "iu" and stored.itemsize > 4 else stored
        self.row_bytes: float = self.n_features * self._dtype.itemsize
        self._run_bytes = max(1, source.run_bytes if source is not None else 1 << 22)
        self._far = source if source is not None and source.is_far else None
        self._threads = source.threads if source is not None else 1

    def __len__(self) -> int:
        return self._n

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the values in the store."""
        return self._chunks.dtype

    def read(self, rows: Ints) -> DenseRows:
        """Read rows, int64 (B,), any order.

        Raises
        ------
        BadInput
            When a chunk is missing or damaged, or values are checked and one is no count.
        """
        out = np.empty((len(rows), self.n_features), self._dtype)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]

        def load(first: int, stop: int, low: int, high: int) -> None:
            values = self._chunks.read(first, stop)
            picked = values[rows[low:high] - first * self._chunks.chunk_len]
            if self._kept is not None:
                picked = picked[:, self._kept]
            out[order[low:high]] = picked if self._named is None else self._checked(picked, rows[low:high])

        run_all(load, plan_runs(self._chunks, rows, rows + 1, self._run_bytes // max(self._n_stored, 1)), self._threads)
        return DenseRows(out)

    def expect(self, rows: Ints) -> None:
        """Have the bytes of rows that will be read be fetched meanwhile, where they are far away."""
        if self._far is not None:
            rows = np.sort(rows)
            run_bytes = self._run_bytes // max(self._n_stored, 1)
            fetch_runs((self._chunks,), rows, rows + 1, run_bytes, self._threads)

    def drop_expected(self) -> None:
        """Let go of what was fetched and not read."""
        if self._far is not None:
            self._far.drop_expected()

    def _checked(self, values: Array, rows: Ints) -> Array:
        """Values of rows, if they are counts; those that are whole but for what `fault` allows are rounded."""
        from data_loaders.reading.kernels import are_whole

        if are_whole(values):
            return values
        assert self._named is not None
        numbered = zip(values, rows.tolist(), strict=True)
        refuse_faults(self.name, self._named, ((row, partial(_place, n)) for row, n in numbered))
        whole: Array = np.rint(values)
        return whole


def _place(row: int, column: int) -> tuple[int, int]:
    return row, column


def _holds(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Whether an unsigned type holds all values of another type."""
    return narrow.kind == "u" and narrow.itemsize <= wide.itemsize


def plan_runs(chunks: Chunks, starts: Ints, stops: Ints, run_bytes: int) -> list[tuple[int, int, int, int]]:
    """Group the chunks that hold some pieces into runs of one request each.

    Parameters
    ----------
    chunks : ZarrChunks or SlicedArray
    starts, stops : int64 arrays (m,)
        Pieces [start, stop) along the first axis, not empty, sorted.
    run_bytes : int
        Decoded size of a run.

    Returns
    -------
    list of (first chunk, end chunk, first piece, end piece)
    """
    if len(starts) == 0:
        return []
    first, last = starts // chunks.chunk_len, (stops - 1) // chunks.chunk_len
    needed = np.unique(np.concatenate([first, last]))
    if (last - first).max() > 1:  # pieces longer than a chunk
        needed = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))
    most = max(1, run_bytes // (chunks.chunk_len * chunks.dtype.itemsize))
    gaps = np.flatnonzero(np.diff(needed) > 1) + 1
    runs = []
    for begin, end in zip([0, *gaps.tolist()], [*gaps.tolist(), len(needed)], strict=True):
        chunk, stop = int(needed[begin]), int(needed[end - 1]) + 1
        while chunk < stop:
            until = min(stop, chunk + most, chunks.run_limit(chunk))
            runs.append((chunk, until))
            chunk = until
    bounds = np.array(runs)
    low, high = np.searchsorted(last, bounds[:, 0]), np.searchsorted(first, bounds[:, 1])
    return [(*run, a, b) for run, a, b in zip(runs, low.tolist(), high.tolist(), strict=True)]


def fetch_runs(arrays: Sequence[Chunks], starts: Ints, stops: Ints, run_bytes: int, threads: int) -> None:
    """Have the runs of chunks that hold some pieces be fetched; pieces as in `plan_runs`."""
    tasks = [(chunks, *run[:2]) for chunks in arrays for run in plan_runs(chunks, starts, stops, run_bytes)]
    run_all(lambda chunks, first, stop: chunks.fetch(first, stop), tasks, threads, "fetch")


def read_whole(chunks: Chunks, threads: int) -> Array:
    """All values of a one-dimensional array, and no second copy of them."""
    values = np.empty(chunks.n, chunks.dtype)

    def load(first: int, stop: int) -> None:
        part = chunks.read(first, stop)
        values[first * chunks.chunk_len :][: len(part)] = part

    firsts = np.arange(-(-chunks.n // chunks.chunk_len)) * chunks.chunk_len
    run_all(load, [run[:2] for run in plan_runs(chunks, firsts, firsts + 1, 1 << 20)], threads)
    return values
