"""Loops over rows of sparse matrices, compiled, outside the interpreter lock.

Inner loops run over slices and not over computed positions: Numba then knows that no index is negative and emits vector
code, five times as fast.
"""

import numba
import numpy as np

from data_loaders.types import Array, Floats, Ints


@numba.njit(nogil=True, cache=True)
def gather_rows(
    data: Array, indices: Ints, indptr: Ints, rows: Ints, out_data: Array, out_indices: Ints, out_indptr: Ints
) -> None:
    """Copy `rows` of a CSR matrix, in that order, to the CSR matrix `out` whose row offsets are known."""
    for i in range(len(rows)):
        start, stop = indptr[rows[i]], indptr[rows[i]] + out_indptr[i + 1] - out_indptr[i]
        from_data, to_data = data[start:stop], out_data[out_indptr[i] : out_indptr[i + 1]]
        from_indices, to_indices = indices[start:stop], out_indices[out_indptr[i] : out_indptr[i + 1]]
        for k in range(len(to_data)):
            to_data[k] = from_data[k]
        for k in range(len(to_data)):
            to_indices[k] = from_indices[k]


@numba.njit(nogil=True, cache=True)
def densify(data: Array, indices: Ints, indptr: Ints, out: Floats) -> None:
    """Write CSR rows as the dense rows `out` (n, n_features); a row is zeroed and filled while it is in the cache."""
    for i in range(len(indptr) - 1):
        row = out[i]
        row[:] = 0
        values, columns = data[indptr[i] : indptr[i + 1]], indices[indptr[i] : indptr[i + 1]]
        for k in range(len(values)):
            row[columns[k]] = values[k]


@numba.njit(nogil=True, cache=True)
def sum_rows(data: Array, indptr: Ints) -> Floats:
    """Sum of every row, float64 (n,)."""
    out = np.zeros(len(indptr) - 1)
    for i in range(len(out)):
        out[i] = data[indptr[i] : indptr[i + 1]].sum()
    return out


@numba.njit(nogil=True, cache=True)
def scatter_pieces(values: Array, base: int, starts: Ints, stops: Ints, targets: Ints, out: Array, limit: int) -> bool:
    """Copy pieces of a one-dimensional array from a part of it to where they belong.

    Parameters
    ----------
    values : array
        The part, elements `base` to `base + len(values)`.
    starts, stops : int64 arrays (m,)
        Pieces of the whole array; of a piece that reaches beyond the part only what lies inside is copied.
    targets : int64 array (m,)
        Where in `out` each piece begins.
    limit : int
        Values must lie below it, unless it is 0.

    Returns
    -------
    bool
        Whether a value did not.
    """
    smallest = largest = values[0]
    for i in range(len(starts)):
        low = max(starts[i], base)
        high = min(stops[i], base + len(values))
        piece = values[low - base : high - base]
        target = out[targets[i] + low - starts[i] : targets[i] + high - starts[i]]
        for k in range(len(piece)):
            target[k] = piece[k]
        if limit > 0:
            for k in range(len(piece)):
                smallest = min(smallest, piece[k])
                largest = max(largest, piece[k])
    return limit > 0 and (smallest < 0 or largest >= limit)


@numba.njit(nogil=True, cache=True)
def scatter_counts(values: Array, base: int, starts: Ints, stops: Ints, targets: Ints, out: Ints) -> bool:
    """As `scatter_pieces`, of counts kept in a wide type, to `out`, uint16.

    Returns
    -------
    bool
        Whether a value is no whole number from 0 to 65,535.
    """
    wrong = False
    for i in range(len(starts)):
        low = max(starts[i], base)
        high = min(stops[i], base + len(values))
        piece = values[low - base : high - base]
        target = out[targets[i] + low - starts[i] : targets[i] + high - starts[i]]
        for k in range(len(piece)):
            fits = (piece[k] >= 0) & (piece[k] <= 65535)
            target[k] = np.uint16(piece[k]) if fits else np.uint16(0)
        for k in range(len(piece)):
            wrong |= target[k] != piece[k]
    return wrong


@numba.njit(nogil=True, cache=True)
def scatter_wide_counts(values: Array, base: int, starts: Ints, stops: Ints, targets: Ints, out: Ints) -> bool:
    """As `scatter_counts`, to `out`, uint32: whether a value is no whole number from 0 to 2,147,483,647."""
    wrong = False
    for i in range(len(starts)):
        low = max(starts[i], base)
        high = min(stops[i], base + len(values))
        piece = values[low - base : high - base]
        target = out[targets[i] + low - starts[i] : targets[i] + high - starts[i]]
        for k in range(len(piece)):
            fits = (piece[k] >= 0) & (piece[k] <= 2147483647)
            target[k] = np.uint32(piece[k]) if fits else np.uint32(0)
        for k in range(len(piece)):
            wrong |= target[k] != piece[k]
    return wrong


@numba.njit(nogil=True, cache=True)
def are_whole(values: Array) -> bool:
    """Whether all values of rows (n, n_features) are whole numbers from 0 to 2,147,483,647."""
    wrong = False
    for i in range(len(values)):
        row = values[i]
        for k in range(len(row)):
            wrong |= not ((row[k] >= 0) & (row[k] <= 2147483647) & (np.floor(row[k]) == row[k]))
    return not wrong


@numba.njit(nogil=True, cache=True)
def map_columns(data: Array, indices: Ints, starts: Ints, lengths: Ints, columns: Ints) -> Ints:
    """Rename the columns of rows in place and close the gaps that dropped ones (-1) leave.

    Returns
    -------
    int64 array (m,)
        Counts left in each row.
    """
    kept = np.empty(len(starts), np.int64)
    for i in range(len(starts)):
        to = starts[i]
        for k in range(starts[i], starts[i] + lengths[i]):
            column = columns[indices[k]]
            if column >= 0:
                data[to] = data[k]
                indices[to] = column
                to += 1
        kept[i] = to - starts[i]
    return kept


@numba.njit(nogil=True, cache=True)
def count_triples(rows: Ints, first: int, positions: Ints, lengths: Ints) -> None:
    """Add to `lengths` how many triples each row has; row `first + i` is at `positions[i]`."""
    start = 0
    while start < len(rows):  # by stretches of the same row, which are long
        stop = start + 1
        while stop < len(rows) and rows[stop] == rows[start]:
            stop += 1
        lengths[positions[rows[start] - first]] += stop - start
        start = stop


@numba.njit(nogil=True, cache=True)
def place_triples(
    rows: Ints,
    columns: Ints,
    values: Array,
    first: int,
    positions: Ints,
    new_columns: Ints,
    ends: Ints,
    out_indices: Ints,
    out_data: Array,
) -> None:
    """Append (row, column, value) triples to their rows; `ends` is where each row ends so far, and moves on."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and rows[stop] == rows[start]:
            stop += 1
        row = positions[rows[start] - first]
        end = ends[row] + stop - start
        to_indices, to_data = out_indices[ends[row] : end], out_data[ends[row] : end]
        from_columns, from_values = columns[start:stop], values[start:stop]
        for k in range(len(to_indices)):
            to_indices[k] = new_columns[from_columns[k]]
        for k in range(len(to_data)):
            to_data[k] = from_values[k]
        ends[row] = end
        start = stop
