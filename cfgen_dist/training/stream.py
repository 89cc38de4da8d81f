"""The streams of training: each rank's share of the batches that the config names, on any number of ranks."""

import time
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cfgen_dist.training import ranks
from data_loaders import Atlas, CellBatch, CellStream
from data_loaders.errors import BadInput
from data_loaders.types import Ints

IN_ORDER_BYTES = 32 << 20  # of a window of cells that are read in order: larger ones only mix better


class TrainingStream:
    """The training cells, shuffled, one iteration an epoch; a position saved on W ranks is continued on any number.

    An epoch of n cells has ceil(n / batch_size) steps on any number of ranks. The cells are dealt evenly over steps and
    ranks: batches differ by at most one cell. An epoch that was begun on W ranks and is continued on others shows the
    cells that are left in the steps that are left: none is repeated or lost.

    Parameters
    ----------
    atlas : Atlas
    batch_size : int
        Cells of a step over all ranks.
    rows : integer array
        Training cells, sorted.
    labels : sequence of str
        A cell without one of them has the code -1.
    seed : int
    rank, world_size : int, optional
        By default those of this process.

    Attributes
    ----------
    waited : float
        Seconds that the training step has waited for batches.
    """

    def __init__(
        self,
        atlas: Atlas,
        batch_size: int,
        *,
        rows: Ints,
        labels: Sequence[str],
        seed: int,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.rank = ranks.rank() if rank is None else rank
        self.world_size = ranks.world_size() if world_size is None else world_size
        self.atlas, self.batch_size, self.rows, self.labels, self.seed = atlas, batch_size, rows, labels, seed
        self.waited = 0.0
        self._n_batches = -(-len(rows) // batch_size)
        self._whole = self._current = self._part(rows, self.rank, self.world_size, self._n_batches)
        # [ranks, batches] of the parts of this epoch that other numbers of ranks have shown
        self._before: list[list[int]] = []

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._whole)

    def __iter__(self) -> Iterator[CellBatch]:
        batches = iter(self._current)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            if self._before and self._current.epoch > self._epoch:  # the last batch, and what comes next is whole again
                self._whole.epoch = self._current.epoch
                self._current, self._before = self._whole, []
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Position as plain values, the same on every rank."""
        at = self._current.state_dict()
        shown = [*self._before, [self.world_size, at["batch"]]] if at["batch"] else self._before
        return {"epoch": at["epoch"], "shown": shown, "seed": self.seed, "check": self._check}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last batch that was shown when `state` was taken.

        Raises
        ------
        BadInput
            When the state is of other cells, another batch size or seed.
        """
        if (state["check"], state["seed"]) != (self._check, self.seed):
            raise BadInput(f"{self.atlas.name}: the checkpoint's position is of other cells, batch size or seed")
        before, self._epoch = [list(part) for part in state["shown"]], int(state["epoch"])
        batch = before.pop()[1] if before and before[-1][0] == self.world_size else 0
        self._before = before
        self._current = self._rest(before) if before else self._whole
        self._current.load_state_dict(self._current.state_dict() | {"epoch": self._epoch, "batch": batch})

    def _rest(self, shown: list[list[int]]) -> CellStream:
        """The rest of the epoch after parts of it were shown by other numbers of ranks: as many steps as were left."""
        rows, left = self.rows, self._n_batches
        for world_size, batches in shown:
            parts = [self._part(rows, rank, world_size, left) for rank in range(world_size)]
            rows = np.setdiff1d(rows, np.concatenate([part.first_rows(self._epoch, batches) for part in parts]))
            left -= batches
        return self._part(rows, self.rank, self.world_size, left)

    def _part(self, rows: Ints, rank: int, world_size: int, n_batches: int) -> CellStream:
        """One rank's stream that shows these rows in so many batches."""
        share = Fraction(len(rows), n_batches * world_size)
        size = share if share >= 1 else 1
        return CellStream(
            self.atlas,
            size,
            rows=rows,
            labels=self.labels,
            unlabelled="keep",
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    @property
    def _check(self) -> int:
        """Checksum of what fixes the order besides seed, epoch and ranks."""
        text = f"{self.atlas.fingerprint} {self.batch_size}".encode()
        return zlib.crc32(np.ascontiguousarray(self.rows, dtype=np.int64).data, zlib.crc32(text))


def held_out_stream(atlas: Atlas, batch_size: int, *, rows: Ints, labels: Sequence[str]) -> CellStream:
    """A rank's share of held-out cells, in the order of the store; a cell without a label has the code -1."""
    return CellStream(
        atlas,
        Fraction(batch_size, ranks.world_size()),
        rows=rows,
        labels=labels,
        unlabelled="keep",
        shuffle=False,
        buffer_bytes=IN_ORDER_BYTES,
        rank=ranks.rank(),
        world_size=ranks.world_size(),
    )
