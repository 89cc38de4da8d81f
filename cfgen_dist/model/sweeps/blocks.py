"""Rows of a batch in blocks, a thread each: every block has sums of its own, which are added in their order.

The blocks depend on the number of rows, not of threads, so a step gives the same bytes on any number of cores.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_loaders.parallel import run_all
from data_loaders.reading.rows import SparseRows
from data_loaders.types import Array, Ints

ROWS, MOST, ROOM = 32, 8, 256 << 20  # rows that are worth a block, blocks, and bytes of their sums together


class Counts(NamedTuple):
    """Counts of B cells as the sweeps take them; one type each, so that they are compiled once."""

    data: Ints  # (nnz,) int32
    indices: Ints  # (nnz,) int32
    indptr: Ints  # (B + 1,) int64

    @classmethod
    def of(cls, rows: SparseRows) -> "Counts":
        """Those of some rows of a store."""
        return cls(
            np.asarray(rows.data).astype(np.int32, copy=False),
            np.asarray(rows.indices).astype(np.int32, copy=False),
            np.asarray(rows.indptr).astype(np.int64, copy=False),
        )


def bits(values: Tensor) -> Array:
    """The NumPy array that shares a tensor's memory; of a bfloat16 tensor its bits, as uint16."""
    values = values.detach()
    array: Array = (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()
    return array


def row_blocks(n_rows: int, bytes_of_sums: int) -> list[tuple[int, int]]:
    """[start, stop) of the blocks of `n_rows` rows, each of which keeps so many bytes of sums."""
    n = max(1, min(MOST, n_rows // ROWS, ROOM // max(bytes_of_sums, 1)))
    return [(n_rows * k // n, n_rows * (k + 1) // n) for k in range(n)]


def over_blocks(
    kernel: Callable[..., None], blocks: Sequence[tuple[int, int]], shared: tuple[Any, ...], own: Sequence[Array]
) -> None:
    """Call `kernel(start, stop, *shared, *sums)` for each block, `sums` its line of each array of `own`."""
    tasks = [(*block, *shared, *(sums[k] for sums in own)) for k, block in enumerate(blocks)]
    run_all(kernel, tasks, torch.get_num_threads(), purpose="sweep")
