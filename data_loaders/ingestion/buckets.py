"""Counts set aside on disk in buckets of rows, so that any order of the cells and any source layout fits memory.

A bucket holds the cells whose place in the atlas falls in one range. Blocks are cut up and added to the buckets' files
as they are read; a bucket is put together when its turn to be written comes. So memory is one block and one bucket,
and rows that come in pieces (CSC, Matrix Market) or in another order than they are written need nothing more.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numcodecs import Blosc
from scipy.sparse import csr_matrix

from data_loaders.ingestion.taking import Taken
from data_loaders.statistics.csr import count_chosen, scatter_chosen
from data_loaders.types import Array, Bools, Ints, PathLike

BUCKET_VALUES = 1 << 23  # about 200 MB while a bucket is put together and written
MOST_BUCKETS = 1024
HEADER = struct.calcsize("<4q4B")  # sizes and widths of the four arrays of a frame
_CODEC = Blosc(cname="lz4", clevel=1, shuffle=Blosc.SHUFFLE)
_TYPES: tuple[type[np.integer[Any]], ...] = (
    np.int64,
    np.int32,
    np.uint32,
    np.uint32,
)  # of the arrays of a frame in memory


class Frame(NamedTuple):
    """Some rows of a bucket, as they were set aside."""

    rows: Ints  # (n,)
    lengths: Ints  # values per row (n,)
    columns: Ints  # (nnz,)
    counts: Ints  # (nnz,)


class Spill:
    """Buckets of rows in a folder.

    Parameters
    ----------
    folder : path-like
        Exists; removed by its owner.
    position : int64 (n_rows,)
        Place of each row in the atlas, a permutation.
    n_values : int
        Upper bound of the values to come; sets the number of buckets.
    n_columns : int
    """

    def __init__(self, folder: PathLike, position: Ints, n_values: int, n_columns: int) -> None:
        self.folder, self.position, self.n_columns = Path(folder), position, n_columns
        self.n_buckets = int(np.clip(-(-n_values // BUCKET_VALUES), 1, min(MOST_BUCKETS, max(len(position), 1))))
        self._bounds = np.linspace(0, len(position), self.n_buckets + 1).astype(np.int64)
        self._inverse: Ints | None = None

    def in_order(self, rows: Ints) -> tuple[Ints, list[tuple[int, slice]]]:
        """How rows go into buckets.

        Parameters
        ----------
        rows : int64 (n,)
            Rows of the atlas's table; -1 for those to leave out.

        Returns
        -------
        order : int64 (n,)
            The rows of a bucket together, those to leave out last.
        parts : list of (int, slice)
            Bucket, and the part of `order` that goes into it.
        """
        bucket = np.searchsorted(self._bounds, self.position[rows], side="right") - 1
        bucket = np.where(rows < 0, self.n_buckets, bucket)
        order = np.argsort(bucket, kind="stable")
        present, first = np.unique(bucket[order], return_index=True)
        parts = [
            (int(number), slice(start, stop))
            for number, start, stop in zip(present, first, [*first[1:], len(rows)], strict=True)
            if number < self.n_buckets
        ]
        return order, parts

    def encode(self, rows: Ints, taken: Taken, parts: list[tuple[int, slice]]) -> list[tuple[int, bytes]]:
        """Cut counts up: a list of (bucket, bytes). Safe in threads.

        Parameters
        ----------
        rows : int64 (n,)
            Rows of the atlas's table, in the order of `taken`.
        taken : Taken
        parts : list of (int, slice)
            As `in_order` returns them.
        """
        pieces = []
        for number, part in parts:
            starts = taken.starts[part.start : part.stop + 1]
            entries = slice(starts[0], starts[-1])
            if entries.start == entries.stop:
                continue  # rows without counts need no words
            frame = Frame(rows[part], np.diff(starts), taken.columns[entries], taken.counts[entries])
            arrays = [_narrow(array) for array in frame]
            packed = [_CODEC.encode(array) for array in arrays]
            header = struct.pack("<4q4B", *map(len, packed), *(array.itemsize for array in arrays))
            pieces.append((number, header + b"".join(packed)))
        return pieces

    def write(self, pieces: list[tuple[int, bytes]]) -> None:
        """Add encoded pieces to their buckets; from one thread."""
        for number, piece in pieces:
            with open(self._file(number), "ab") as file:
                file.write(piece)

    def frames(self, number: int) -> Iterator[Frame]:
        """Yield the pieces of a bucket."""
        if not self._file(number).exists():
            return
        with open(self._file(number), "rb") as file:
            while header := file.read(HEADER):
                *sizes, a, b, c, d = struct.unpack("<4q4B", header)
                parts = [_decoded(file.read(size), width) for size, width in zip(sizes, (a, b, c, d), strict=True)]
                yield Frame(*(part.astype(kind, copy=False) for part, kind in zip(parts, _TYPES, strict=True)))

    def assemble(
        self, number: int, kept: Bools | None = None, columns: Ints | None = None, n_columns: int | None = None
    ) -> tuple[Ints, csr_matrix]:
        """Put a bucket together.

        Parameters
        ----------
        number : int
        kept : bool (n_rows,), optional
            Rows to take; all by default.
        columns : int64 (n_columns,), optional
            The new column of each column, -1 leaves it out; as they are by default.
        n_columns : int, optional
            How many new columns there are.

        Returns
        -------
        int64 (n,), scipy CSR (n, n_columns)
            Rows in the order of the atlas, and their counts.
        """
        low, high = self._bounds[number : number + 2]
        names = np.arange(self.n_columns, dtype=np.int32) if columns is None else columns.astype(np.int32)
        rows = self._row_at()[low:high]
        stays = np.ones(len(rows), bool) if kept is None else kept[rows]
        place_of = np.where(stays, np.cumsum(stays) - 1, -1)
        frames = [(place_of[self.position[frame.rows] - low], frame) for frame in self.frames(number)]
        rows = rows[stays]
        indptr = np.zeros(len(rows) + 1, np.int64)
        for places, frame in frames:
            count_chosen(places, frame.lengths, frame.columns, names, indptr)
        np.cumsum(indptr, out=indptr)
        chosen, counts = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
        cursor = indptr[:-1].copy()
        while frames:
            places, frame = frames.pop(0)
            scatter_chosen(places, frame.lengths, frame.columns, frame.counts, names, cursor, chosen, counts)
        block = csr_matrix((counts, chosen, indptr), shape=(len(rows), n_columns or self.n_columns))
        block.sort_indices()  # for rows that came in pieces, and columns in another order
        return rows, block

    def _row_at(self) -> Ints:
        """The inverse of `position`, int64 (n_rows,)."""
        if self._inverse is None:
            self._inverse = np.empty_like(self.position)
            self._inverse[self.position] = np.arange(len(self.position))
        return self._inverse

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}"


def _narrow(array: Ints) -> Array:
    """Numbers from 0 on in the smallest type that holds them: less to pack, and no other bytes in the atlas."""
    return np.ascontiguousarray(array, np.min_scalar_type(int(array.max())))


def _decoded(part: bytes, width: int) -> Array:
    return np.frombuffer(_CODEC.decode(part), f"<u{width}")
