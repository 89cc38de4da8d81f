"""Rows of a SOMA sparse array, read by runs of its tiles."""

import itertools
from typing import Any

import numpy as np

from data_loaders.errors import BadInput
from data_loaders.parallel import run_all
from data_loaders.reading.buffers import Buffers
from data_loaders.reading.rows import SparseRows, offsets
from data_loaders.reading.soma_words import one_line
from data_loaders.reading.value_checks import Naming, refuse_faults
from data_loaders.sources.counts import fault
from data_loaders.types import Array, Ints

RUNS_AT_ONCE = 2  # TileDB has threads of its own: while it decodes one run, another is sorted into rows
RUNS_KEPT = 2
RUN_ROWS = 2048  # rows of one query: the extent of SOMA's tiles, which are decoded whole


class SomaReader:
    """Rows of a SOMA sparse array.

    Attributes
    ----------
    block_rows : int
        Neighbouring rows that are cheap to read together.
    """

    block_rows: int | None = RUN_ROWS

    def __init__(
        self, matrix: Any, ids: Ints, var_ids: Ints, n_all: int, name: str, named: Naming | None = None
    ) -> None:
        self._named = named  # what places are called; without it values are not checked
        self.name, self._matrix, self._ids, self._buffers = name, matrix, ids, Buffers()
        self._kept: dict[int, SparseRows] = {}  # number of a run -> SparseRows
        self._run_buffers = Buffers(keep=32)
        self.n_features = len(var_ids)
        stored = np.dtype(matrix.schema.field("soma_data").type.to_pandas_dtype())
        is_wide = named is not None and stored.kind in "iu" and stored.itemsize > 4  # counts fit in fewer bytes
        self._dtype = np.dtype(np.uint32) if is_wide else np.dtype(np.uint8) if stored.kind == "b" else stored
        self._index_dtype = np.uint16 if self.n_features <= 1 << 16 else np.uint32
        self._new_columns: Ints = np.zeros(int(var_ids.max(initial=-1)) + 1, self._index_dtype)
        self._new_columns[var_ids] = np.arange(len(var_ids))
        self.n_values = matrix.nnz  # of all cells, those that the filter leaves out too
        value_bytes = np.dtype(self._dtype).itemsize + np.dtype(self._index_dtype).itemsize
        self.row_bytes = self.n_values / max(n_all, 1) * value_bytes

    def __len__(self) -> int:
        return len(self._ids)

    def run_edges(self) -> list[int]:
        """First row of every run, a list: rows up to the next one are read by one query."""
        return [0, *(np.flatnonzero(np.diff(self._ids // RUN_ROWS)) + 1).tolist()]

    def read(self, rows: Ints) -> SparseRows:
        """Read rows, int64 (B,), any order."""
        from data_loaders.reading.kernels import scatter_pieces

        unique, back = np.unique(rows, return_inverse=True)
        cuts = [0, *(np.flatnonzero(np.diff(self._ids[unique] // RUN_ROWS)) + 1).tolist(), len(unique)]
        runs = [unique[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]
        pieces: list[Any] = [None] * len(runs)  # filled by threads

        def load(number: int) -> None:
            pieces[number] = self._run(runs[number])

        run_all(load, [(number,) for number in range(len(runs))], RUNS_AT_ONCE)
        lengths = np.concatenate([np.diff(p.indptr)[at] for p, at in pieces] or [np.empty(0, np.int64)])
        indptr = offsets(lengths[back])
        data, indices = (self._buffers.empty(indptr[-1], dtype) for dtype in (self._dtype, self._index_dtype))
        order = np.argsort(back, kind="stable")
        bounds = np.searchsorted(back[order], cuts)
        for number, (piece, at) in enumerate(pieces):
            asked = order[bounds[number] : bounds[number + 1]]
            local = at[back[asked] - cuts[number]]
            where = piece.indptr[local], piece.indptr[local + 1], indptr[asked]
            if len(piece.data):
                scatter_pieces(piece.data, 0, *where, data, 0)
                scatter_pieces(piece.indices, 0, *where, indices, 0)
        return SparseRows(data, indices, indptr, self.n_features)

    def _run(self, rows: Ints) -> tuple[SparseRows, Ints]:
        """Sorted rows of one run: a SparseRows that holds them, and where they are in it."""
        number = self._ids[rows[0]] // RUN_ROWS
        first, stop = np.searchsorted(self._ids, [number * RUN_ROWS, (number + 1) * RUN_ROWS])
        piece = self._kept.pop(number, None)
        if piece is None and len(rows) < (stop - first) / 4:
            return self._read_run(self._ids[rows]), np.arange(len(rows))
        if piece is None:
            piece = self._read_run(self._ids[first:stop])
            if len(rows) < stop - first:  # the window ends in this run, and the next one begins in it
                self._kept[number] = piece
                while len(self._kept) > RUNS_KEPT:
                    self._kept.pop(next(iter(self._kept)), None)
        return piece, rows - first

    def _read_run(self, ids: Ints) -> SparseRows:
        """Rows of sorted join ids that lie near each other: SparseRows."""
        from data_loaders.reading.kernels import count_triples, place_triples

        first, last = int(ids[0]), int(ids[-1])
        coordinates = slice(first, last) if last - first + 1 == len(ids) else ids
        try:
            tables = self._matrix.read(coords=(coordinates, slice(None))).tables()
            parts = [
                [part[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data")]
                for table in tables
                for part in table.to_batches()
            ]
        except Exception as error:  # tiledbsoma raises plain RuntimeErrors for damaged files
            raise BadInput(f"{self.name}: rows {first} to {last} cannot be read ({one_line(error)})") from error
        positions = np.zeros(last - first + 1, np.int64)
        positions[ids - first] = np.arange(len(ids))
        lengths = np.zeros(len(ids), np.int64)
        for rows, _, _ in parts:
            count_triples(rows, first, positions, lengths)
        indptr = offsets(lengths)
        data, indices = (self._run_buffers.empty(indptr[-1], dtype) for dtype in (self._dtype, self._index_dtype))
        ends = indptr[:-1].copy()
        for rows, columns, values in parts:
            if self._named is not None:
                values = self._checked(rows, columns, values)
            place_triples(rows, columns, values, first, positions, self._new_columns, ends, indices, data)
        return SparseRows(data, indices, indptr, self.n_features)

    def _checked(self, rows: Ints, columns: Ints, values: Array) -> Array:
        """Values, if they are counts; those that are whole but for what `fault` allows are rounded."""
        if fault(values) is not None:
            assert self._named is not None

            def place(at: int) -> tuple[int, int]:
                return int(np.searchsorted(self._ids, rows[at])), int(self._new_columns[columns[at]])

            refuse_faults(self.name, self._named, [(values, place)])
        return np.rint(values) if values.dtype.kind == "f" else values
