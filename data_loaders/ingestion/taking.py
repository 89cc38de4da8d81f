"""The counts of a block, taken in one pass: checked, columns renamed, rows put in order, summed up and hashed.

Values that are whole numbers need nothing else. Blocks with anything else are left to `sources.counts.as_counts`, which
rounds what may be rounded and names what is wrong.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from scipy.sparse import csr_matrix

from data_loaders.sources.counts import LARGEST
from data_loaders.types import Array, Bools, Floats, Ints

PLAIN = ("u", "i", "f")  # kinds of values that can be looked at one by one


class Taken(NamedTuple):
    """Rows of counts, without zeros; the columns of a row are in the order of the block.

    Attributes
    ----------
    starts : int64 (n + 1,)
        Row i is `columns[starts[i]:starts[i + 1]]`.
    columns : uint32 (nnz,)
    counts : uint32 (nnz,)
    totals : float64 (n,)
        Counts of each row.
    hashes : uint64 (n,)
        Of each row, see `statistics.csr.add_row_hashes`.
    """

    starts: Ints
    columns: Array
    counts: Array
    totals: Floats
    hashes: Array


def take_counts(block: csr_matrix, order: Ints, columns: Ints, checked: Bools) -> Taken | None:
    """Take the counts of a block.

    Parameters
    ----------
    block : scipy CSR (n, features)
        Without duplicates.
    order : int64 (n,)
        Its rows in the order in which they are taken.
    columns : int64 (features,)
        The new column of each feature; -1 leaves it out.
    checked : bool (features,)
        Features whose values must be counts; all others have the column -1.

    Returns
    -------
    Taken or None
        None when some value that is checked is not a whole number from 0 to 2^31 - 1.
    """
    values: Any = block.data.view(np.uint8) if block.data.dtype == bool else block.data
    if values.dtype.kind not in PLAIN or values.dtype.itemsize > 8:
        return None
    starts, totals, hashes = np.zeros(len(order) + 1, np.int64), np.zeros(len(order)), np.zeros(len(order), np.uint64)
    new_columns, counts = np.empty(len(values), np.uint32), np.empty(len(values), np.uint32)
    names = columns.astype(np.int32)
    is_whole = _take(
        values, block.indices, block.indptr, order, names, checked, starts, new_columns, counts, totals, hashes
    )
    if not is_whole:
        return None
    return Taken(starts, new_columns[: starts[-1]], counts[: starts[-1]], totals, hashes)


@numba.njit(nogil=True, cache=True)
def _take(
    values: Array, indices: Ints, indptr: Ints, order: Ints, columns: Ints, checked: Bools,
    starts: Ints, new_columns: Array, counts: Array, totals: Floats, hashes: Array,
) -> bool:  # fmt: skip
    n = 0
    for i in range(len(order)):
        total, together = np.uint64(0), np.uint64(0)
        for k in range(indptr[order[i]], indptr[order[i] + 1]):
            feature = indices[k]
            column = columns[feature]
            if column < 0 and not checked[feature]:
                continue
            value = values[k]
            if not 0 <= value <= LARGEST:
                return False
            count = np.uint32(value)
            if count != value:
                return False
            if column < 0 or count == 0:
                continue
            new_columns[n], counts[n] = column, count
            n += 1
            total += np.uint64(count)
            x = (np.uint64(column) << np.uint64(32)) | np.uint64(count)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            together += x ^ (x >> np.uint64(31))
        starts[i + 1] = n
        totals[i] = total
        hashes[i] = together
    return True
