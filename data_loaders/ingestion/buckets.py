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

from data_loaders.statistics.csr import scatter_rows
from data_loaders.types import Ints, PathLike

BUCKET_VALUES = 1 << 23  # about 200 MB while a bucket is put together and written
MOST_BUCKETS = 1024
_CODEC = Blosc(cname="lz4", clevel=1, shuffle=Blosc.SHUFFLE)
_TYPES: tuple[type[np.integer[Any]], ...] = (np.int64, np.int32, np.uint32, np.uint32)  # of the arrays of a frame


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

    def encode(self, rows: Ints, block: csr_matrix) -> list[tuple[int, bytes]]:
        """Cut a block (CSR, sorted columns, uint32) up: a list of (bucket, bytes). Safe in threads."""
        bucket = np.searchsorted(self._bounds, self.position[rows], side="right") - 1
        order = np.argsort(bucket, kind="stable")
        block = block[order]
        present, first = np.unique(bucket[order], return_index=True)
        pieces = []
        for number, start, stop in zip(present, first, [*first[1:], len(rows)], strict=True):
            entries = slice(block.indptr[start], block.indptr[stop])
            lengths = np.diff(block.indptr[start : stop + 1])
            if entries.start == entries.stop:
                continue  # rows without counts need no words
            frame = Frame(rows[order[start:stop]], lengths, block.indices[entries], block.data[entries])
            parts = [
                _CODEC.encode(np.ascontiguousarray(array, kind)) for array, kind in zip(frame, _TYPES, strict=True)
            ]
            pieces.append((int(number), struct.pack("<4q", *map(len, parts)) + b"".join(parts)))
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
            while header := file.read(32):
                parts = [file.read(length) for length in struct.unpack("<4q", header)]
                yield Frame(*(_decoded(part, kind) for part, kind in zip(parts, _TYPES, strict=True)))

    def assemble(self, number: int) -> tuple[Ints, csr_matrix]:
        """Rows of a bucket in the order of the atlas, int64 (n,), and their counts, CSR (n, n_columns)."""
        low, high = self._bounds[number : number + 2]
        frames = list(self.frames(number))
        sizes = np.zeros(high - low, np.int64)
        for frame in frames:
            np.add.at(sizes, self.position[frame.rows] - low, frame.lengths)
        indptr = np.append(0, np.cumsum(sizes))
        columns, counts = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.uint32)
        cursor = indptr[:-1].copy()
        while frames:
            frame = frames.pop(0)
            places = self.position[frame.rows] - low
            scatter_rows(places, frame.lengths, frame.columns, frame.counts, cursor, columns, counts)
        block = csr_matrix((counts, columns, indptr), shape=(high - low, self.n_columns))
        block.sort_indices()  # for rows that came in pieces
        return self._row_at()[low:high], block

    def _row_at(self) -> Ints:
        """The inverse of `position`, int64 (n_rows,)."""
        if self._inverse is None:
            self._inverse = np.empty_like(self.position)
            self._inverse[self.position] = np.arange(len(self.position))
        return self._inverse

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}"


def _decoded(part: bytes, kind: type[np.integer[Any]]) -> Ints:
    return np.frombuffer(_CODEC.decode(part), kind)
