"""The order in which an epoch shows the cells: a pure function of (rows, seed, epoch, rank, world size).

The selected rows are cut into blocks of neighbours, because neighbours are read together. An epoch permutes the blocks
of the whole atlas, gives every rank one stretch of that sequence, cuts the stretch into windows of a few batches, and
permutes the cells inside each window. A window is what the stream holds in memory at once.

Sizes. With n cells, batches of B and W ranks every rank gets ceil(n / (B W)) batches. The n cells are dealt over all
these batches so that any two differ by at most one cell: nothing is dropped, nothing is shown twice, no batch is tiny.
(When that would leave batches without a cell, n < ranks x batches, there are floor(n / W) batches a rank.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_loaders.errors import BadInput
from data_loaders.seeds import Streaming, generator
from data_loaders.types import Ints

MAX_LAYERS = 4  # a weighted epoch reads a block at most this many times


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """One rank's epoch. Build it with `plan_epoch`.

    Parameters
    ----------
    sizes : int64 array (n_batches,)
        Cells in each batch of this rank.
    """

    sizes: Ints
    window_batches: int
    first: int  # where this rank's stretch starts in the sequence of permuted blocks
    rows: Ints | None  # the selection; shared by all epochs and ranks; None: all rows
    starts: Ints  # (n_blocks + 1,) first position in `rows` of each block
    order: Ints | None  # (n_blocks,) permutation of the blocks; None: as they are
    ends: Ints | None  # (n_blocks,) where each permuted block ends in the sequence
    key: tuple[int, int, int]  # (seed, epoch, rank) of the draws inside windows

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return -(-len(self.sizes) // self.window_batches)

    def window_sizes(self, window: int) -> Ints:
        """Sizes of the batches of a window."""
        return self.sizes[window * self.window_batches : (window + 1) * self.window_batches]

    def window_rows(self, window: int) -> Ints:
        """Rows of a window, int64, in the order shown: the first batch's cells, then the second's, and so on."""
        before = int(self.sizes[: window * self.window_batches].sum())
        start = self.first + before
        stop = start + int(self.window_sizes(window).sum())
        if self.order is None or self.ends is None:
            return np.arange(start, stop) if self.rows is None else self.rows[start:stop].astype(np.int64)
        low, high = np.searchsorted(self.ends, [start, stop - 1], side="right")
        blocks = self.order[low : high + 1]
        positions = _concatenated_ranges(self.starts[blocks], self.starts[blocks + 1])
        skipped = start - (self.ends[low - 1] if low else 0)
        rows = positions[skipped : skipped + stop - start]
        if self.rows is not None:
            rows = self.rows[rows].astype(np.int64)
        seed, epoch, rank = self.key
        return generator(seed, Streaming.CELLS, epoch, rank, window).permutation(rows)


def plan_epoch(
    rows: Ints | int,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
    block_rows: int = 64,
    window_batches: int = 8,
) -> EpochPlan:
    """Plan one epoch of one rank.

    Parameters
    ----------
    rows : integer array (n,) or int
        Selected rows, sorted; or the result of `draw_weighted`; or n, for rows 0 to n - 1.
    batch_size : int
        Cells a batch; batches are at most this large.
    seed, epoch : int
        The order is a function of both.
    rank, world_size : int
    shuffle : bool
        False: the cells in the order of `rows`, the first rank the first stretch.
    block_rows : int
        Blocks are cut at multiples of this row number. Mixing needs many blocks in a window, reading likes few.
    window_batches : int
        Batches that are shuffled together.

    Returns
    -------
    EpochPlan

    Raises
    ------
    BadInput
        When there are no cells, fewer cells than ranks, or a rank outside the world.
    """
    n = int(rows) if isinstance(rows, int | np.integer) else len(rows)
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; expected at least 1")
    if not 0 <= rank < world_size:
        raise BadInput(f"rank is {rank}; expected 0 to {world_size - 1}, the world size being {world_size}")
    if n < world_size:
        raise BadInput(f"{n} cells selected for {world_size} rank(s); expected at least one cell a rank")
    n_batches = min(-(-n // (batch_size * world_size)), n // world_size)
    share, remainder = divmod(n, n_batches * world_size)
    # batch j of rank r is number j W + r of all; the first `remainder` of all have one cell more
    extra = np.arange(n_batches)[:, None] * world_size + np.arange(world_size) < remainder
    sizes = share + extra.astype(np.int64)  # (n_batches, world_size)
    first = int(sizes[:, :rank].sum())
    starts = cut_blocks(rows, block_rows)
    order = generator(seed, Streaming.BLOCKS, epoch).permutation(len(starts) - 1) if shuffle else None
    ends = np.cumsum(np.diff(starts)[order]) if shuffle else None
    selected = None if isinstance(rows, int | np.integer) else rows
    return EpochPlan(sizes[:, rank], window_batches, first, selected, starts, order, ends, (seed, epoch, rank))


def cut_blocks(rows: Ints | int, block_rows: int) -> Ints:
    """First position of every run of `rows` inside one block of the store, then the end (n_blocks + 1,)."""
    if isinstance(rows, int | np.integer):
        return np.append(np.arange(0, rows, block_rows), rows)
    block = rows // block_rows
    return np.concatenate([[0], np.flatnonzero(block[1:] != block[:-1]) + 1, [len(rows)]]).astype(np.int64)


def draw_weighted(rows: Ints, weights: npt.ArrayLike, n_draws: int, *, seed: int = 0, epoch: int = 0) -> Ints:
    """Draw rows in proportion to weights, by systematic sampling.

    Every row appears floor(e) or ceil(e) times, e = n_draws * weight / sum of weights, with expectation e. Rows of
    equal weight share their draws to within one, so the classes of a balanced draw are equal to within one cell.

    Parameters
    ----------
    rows : integer array (n,)
        Sorted.
    weights : array (n,)
        Not negative, not all zero.
    n_draws : int
    seed, epoch : int

    Returns
    -------
    array (n_draws,)
        For `plan_epoch`: the copies of a row are dealt over sorted layers, so that they fall in different windows.

    Raises
    ------
    BadInput
        When a weight is negative or not finite, or all are zero.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(rows),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise BadInput(
            f"weights of shape {weights.shape} for {len(rows)} rows; "
            "expected one finite, non-negative number a row, not all zero"
        )
    by_weight = np.argsort(weights, kind="stable")
    ticks = np.cumsum(weights[by_weight])
    ticks *= n_draws / ticks[-1]
    ticks[-1] = n_draws
    copies = np.empty(len(rows), np.int64)
    copies[by_weight] = np.diff(np.floor(ticks + generator(seed, Streaming.DRAW, epoch).random()), prepend=0)
    layers = [np.repeat(rows, (copies + MAX_LAYERS - 1 - layer) // MAX_LAYERS) for layer in range(MAX_LAYERS)]
    return np.concatenate(layers)


def _concatenated_ranges(starts: Ints, stops: Ints) -> Ints:
    """The numbers of all ranges [start, stop), one range after the other."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    numbers: Ints = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return numbers
