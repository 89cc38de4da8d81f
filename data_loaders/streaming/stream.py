"""`CellStream`: an atlas as an endless supply of epochs, each a shuffled walk over all selected cells."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from data_loaders.errors import BadInput
from data_loaders.labels import check_unlabelled
from data_loaders.reading.atlas import Atlas
from data_loaders.reading.store import Reader, Rows
from data_loaders.streaming.batch import CellBatch
from data_loaders.streaming.epoch import EpochPlan, draw_weighted, plan_epoch
from data_loaders.streaming.workers import Share, register_with_torch, this_worker
from data_loaders.types import Array, Floats, Ints

BUFFER_BYTES = 128 << 20
MIXING_BLOCKS = 512  # blocks a window when the store is sorted: label entropy 0.99 of that of a perfect shuffle


class Position(TypedDict):
    """Where a stream stands, as plain values."""

    epoch: int
    batch: int  # batches of this epoch that were yielded
    seed: int
    world_size: int
    fingerprint: int
    origin: NotRequired[int]  # in a worker of a DataLoader: the batch that its first worker began with


class CellStream:
    """Batches of cells, one iteration an epoch.

    Usable as it is as a Lightning train dataloader. The order is a function of atlas, arguments and epoch. An
    iteration that was broken off is continued by the next one, so the sequence of batches is the same however it is cut
    into loops; without shuffling every iteration starts anew.

    In the workers of a `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=k)` each shows every k-th
    batch, so that the loader gives the batches of the stream in its order. There one iteration is one epoch: a loader
    that keeps its workers (`persistent_workers=True`) goes on to the next epoch each time, one that does not begins at
    `epoch`.

    A stream can be pickled; the store is opened again where it is unpickled.

    Memory is that of two windows of `buffer_bytes` (the one shown and the one being read), or of a single one when all
    selected cells fit in it: then they are read once and kept. Of stores in a bucket the bytes of a third window, still
    compressed, are fetched meanwhile.

    Parameters
    ----------
    atlas : Atlas
    batch_size : int or Fraction
        Largest batch; sizes of batches differ by at most one cell.
    split : str, optional
        Only cells of this split.
    rows : integer array, optional
        Only these rows (of the split, when both are given).
    labels : sequence of str
        Obs columns whose codes go with each batch.
    unlabelled : {"refuse", "drop", "keep"}
        What to do with cells that have no value in one of these columns: refuse, leave them out, or show them with the
        code -1. No value are NaN, None, NA and empty text, see `data_loaders.labels`.
    shuffle : bool
        False: cells in the order of the store.
    seed : int
    rank, world_size : int
        Every rank makes its own stream with its own number; together they show every cell once an epoch.
    modalities : sequence of str, optional
        What to read; all by default.
    balance : str, optional
        Obs column whose categories are shown equally often. Cells are then drawn, not visited once.
    weights : array (n_cells,), optional
        Cells are drawn in proportion. An epoch has as many draws as there are selected cells.
    buffer_bytes : int
        Size of a window.
    block_rows : int, optional
        Neighbouring rows that are read together and mixed with others only inside a window. By default as many as leave
        512 blocks a window, 16 in a store that was shuffled when written.

    Attributes
    ----------
    epoch : int
        The epoch that the next batch belongs to. Set it to start another one.

    Raises
    ------
    BadInput
        When a column, split, row or modality does not exist, a selected cell lacks a label, or nothing is selected.
    """

    def __init__(
        self,
        atlas: Atlas,
        batch_size: int | Fraction,
        *,
        split: str | None = None,
        rows: npt.ArrayLike | None = None,
        labels: Sequence[str] = (),
        unlabelled: str = "refuse",
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        modalities: Sequence[str] | None = None,
        balance: str | None = None,
        weights: npt.ArrayLike | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        block_rows: int | None = None,
    ) -> None:
        self.atlas, self.batch_size, self.shuffle, self.seed = atlas, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.modalities = tuple(modalities or atlas.modalities)
        self._rows = _select(atlas, split, rows)
        check_unlabelled(unlabelled)
        if unlabelled == "drop":
            self._rows = self._labelled([*labels, *([balance] if balance else [])])
        self._codes = {
            name: atlas.small_codes(name) if unlabelled == "keep" else self._checked_codes(name) for name in labels
        }
        self._weights = self._draw_weights(balance, weights)
        row_bytes = sum(atlas.reader(name).row_bytes for name in self.modalities)
        self._window_batches = max(1, int(buffer_bytes / (row_bytes * batch_size)))
        window_rows = self._window_batches * batch_size
        self._block_rows = block_rows or _default_block_rows(atlas.reader(self.modalities[0]), atlas, window_rows)
        self._fits = self.n_selected * row_bytes <= buffer_bytes
        self._resident: dict[str, Rows] | None = None
        self._epoch = self._batch = 0
        self._resume = self._was_iterated = False
        self._origin: int | None = None
        self._n_batches = len(self._plan(0).sizes)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The type, which torch asks for when it looks whether it was given an iterable dataset.

        Only then is the stream registered as one: to do it when the stream is made, torch would have to be imported.
        """
        register_with_torch(CellStream)
        return type(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_resident": None}

    def __len__(self) -> int:
        """Batches in an epoch of this rank (and of every other)."""
        return self._n_batches

    @property
    def n_selected(self) -> int:
        """Number of selected cells, over all ranks."""
        return self.atlas.n_cells if self._rows is None else len(self._rows)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch, self._batch, self._resume = int(epoch), 0, False
        self._origin, self._was_iterated = None, False

    def first_rows(self, epoch: int, n_batches: int) -> Ints:
        """Rows of the first batches of an epoch on this rank, int64, in the order shown; nothing is read."""
        plan = self._plan(epoch)
        windows = range(-(-n_batches // plan.window_batches))
        rows = [np.empty(0, np.int64), *(plan.window_rows(window) for window in windows)]
        return np.concatenate(rows)[: plan.sizes[:n_batches].sum()]

    def state_dict(self) -> Position:
        """Position as plain values: batches of this epoch that were yielded. The same on every rank."""
        state: Position = {
            "epoch": self._epoch,
            "batch": self._batch,
            "seed": self.seed,
            "world_size": self.world_size,
            "fingerprint": self._fingerprint,
        }
        if self._origin is not None and self._batch:
            state["origin"] = self._origin
        return state

    def load_state_dict(self, state: Position) -> None:
        """Continue after the last batch that was yielded when `state` was taken.

        Raises
        ------
        BadInput
            When the state is of other cells or options, or of another world size in the middle of an epoch.
        """
        if state["fingerprint"] != self._fingerprint or state["seed"] != self.seed:
            raise BadInput(
                f"{self.atlas.name}: the saved position belongs to another store, selection, batch size or seed; "
                "resume with the options of the first run"
            )
        if state["batch"] and state["world_size"] != self.world_size:
            raise BadInput(
                f"the saved position is batch {state['batch']} of an epoch on {state['world_size']} ranks; on "
                f"{self.world_size} ranks only the end of an epoch can be continued"
            )
        self._epoch, self._batch, self._resume = int(state["epoch"]), int(state["batch"]), True
        self._origin, self._was_iterated = state.get("origin"), False

    def __iter__(self) -> Iterator[CellBatch]:
        worker = this_worker()
        if worker is not None:
            yield from self._share_of_worker(*worker)
            return
        if not self.shuffle and not self._resume:
            self._batch = 0
        self._resume = False
        plan = self._plan(self._epoch)
        for number, batch in self._batches(plan, Share()):
            if number == self._n_batches:
                self._epoch, self._batch = self._epoch + 1, 0  # now: a state saved with the last batch is of the next
            else:
                self._batch = number
            yield batch

    def _share_of_worker(self, worker: int, n_workers: int) -> Iterator[CellBatch]:
        """An epoch's batches of a worker of a DataLoader, or what is left of them.

        Workers read ahead of what is shown, each as far as it gets, so an iteration that is broken off cannot be
        continued: the next one shows the next epoch, as it does in all other workers.
        """
        if self._was_iterated:
            self.epoch += 1
        elif not self.shuffle and not self._resume:
            self._batch = 0
        self._was_iterated, self._resume = True, False
        epoch, self._origin = self._epoch, self._batch if self._origin is None else self._origin
        for number, batch in self._batches(self._plan(epoch), Share(worker, n_workers, self._origin)):
            self._batch = number
            yield batch
        if self._epoch == epoch:  # a state saved now is of the next epoch, whose iteration is the next
            self._epoch, self._batch, self._origin, self._was_iterated = epoch + 1, 0, None, False

    def _batches(self, plan: EpochPlan, share: Share) -> Iterator[tuple[int, CellBatch]]:
        """(batches done, batch) of a share of an epoch, from where it stands."""
        return self._resident_batches(plan, share) if self._fits else self._windowed_batches(plan, share)

    def _resident_batches(self, plan: EpochPlan, share: Share) -> Iterator[tuple[int, CellBatch]]:
        """(batches done, batch), all cells from memory."""
        if self._resident is None:
            rows = np.arange(self.n_selected) if self._rows is None else self._rows
            self._resident = {name: self.atlas.read(rows, name) for name in self.modalities}
        number = self._batch
        while number < self._n_batches:
            window, skip = divmod(number, plan.window_batches)
            rows = plan.window_rows(window)
            positions: Ints = rows if self._rows is None else np.searchsorted(self._rows, rows)
            for start, stop in _edges(plan.window_sizes(window))[skip:]:
                number += 1
                if not share.has(number - 1):
                    continue
                picked = positions[start:stop]
                yield number, self._batch_of({k: v.take(picked) for k, v in self._resident.items()}, rows[start:stop])

    def _windowed_batches(self, plan: EpochPlan, share: Share) -> Iterator[tuple[int, CellBatch]]:
        """(batches done, batch), window by window, the next one read while this one is shown."""
        first = self._batch // plan.window_batches
        numbers = range(self._batch, self._n_batches)
        try:
            with ThreadPoolExecutor(1, "cell-stream") as pool, ThreadPoolExecutor(1, "cell-stream-far") as far:
                ahead = pool.submit(self._read_window, plan, first, share, far)
                for window in range(first, plan.n_windows):
                    rows, counts, edges = ahead.result()
                    shown = [(number, *edge) for number, edge in edges if number in numbers]
                    if not shown and window + 1 < plan.n_windows:
                        ahead = pool.submit(self._read_window, plan, window + 1, share, far)
                    for i, (number, start, stop) in enumerate(shown):
                        if i == min(1, len(shown) - 1) and window + 1 < plan.n_windows:
                            # a consumer that asks for the second batch has let go of the window before, whose memory
                            # the next one takes over
                            ahead = pool.submit(self._read_window, plan, window + 1, share, far)
                        yield (
                            number + 1,
                            self._batch_of({k: v[start:stop] for k, v in counts.items()}, rows[start:stop]),
                        )
        except GeneratorExit:  # broken off
            for reader in self._far_readers():
                reader.drop_expected()
            raise

    def _read_window(
        self, plan: EpochPlan, window: int, share: Share, far: ThreadPoolExecutor
    ) -> tuple[Ints, dict[str, Rows], list[tuple[int, tuple[int, int]]]]:
        """Rows and counts of a window, and (number, (start, stop)) of the batches in them: those of a share.

        Of stores that are far away, the bytes of the next window are fetched while this one is decoded and shown.
        """
        rows, numbered = _rows_of(plan, window, share)
        if window + 1 < plan.n_windows:
            far.submit(self._expect, plan, window + 1, share)
        return rows, {name: self.atlas.read(rows, name) for name in self.modalities}, numbered

    def _expect(self, plan: EpochPlan, window: int, share: Share) -> None:
        """Have the bytes of a window be fetched; what is wrong with them is said when they are read."""
        readers = self._far_readers()
        if readers:
            rows, _ = _rows_of(plan, window, share)
            with suppress(BadInput):
                for reader in readers:
                    reader.expect(rows)

    def _far_readers(self) -> list[Any]:
        """Readers that can fetch ahead; of SOMA there are none."""
        readers = [self.atlas.reader(name) for name in self.modalities]
        return [reader for reader in readers if hasattr(reader, "expect")]

    def _batch_of(self, counts: Mapping[str, Rows], rows: Ints) -> CellBatch:
        if self.atlas.has_size_factor and self.modalities[0] == self.atlas.modalities[0]:
            size_factor = self.atlas.size_factor[rows]
        else:
            size_factor = counts[self.modalities[0]].row_sums().astype(np.float32)
        labels = {name: codes[rows].astype(np.int64) for name, codes in self._codes.items()}
        return CellBatch(counts, size_factor, labels, rows)

    def _plan(self, epoch: int) -> EpochPlan:
        rows: Ints | int = self.n_selected if self._rows is None else self._rows
        if self._weights is not None:
            selected = np.arange(self.n_selected) if self._rows is None else self._rows
            rows = draw_weighted(selected, self._weights, len(selected), seed=self.seed, epoch=epoch)
        return plan_epoch(
            rows,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=self.shuffle,
            block_rows=1 if self._fits else self._block_rows,
            window_batches=self.n_selected if self._fits else self._window_batches,
        )

    def _checked_codes(self, name: str) -> Ints:
        codes = self.atlas.small_codes(name)
        missing = np.count_nonzero(self._of_selected(codes) < 0)
        if missing:
            raise BadInput(
                f"{self.atlas.name}: obs column {name!r} has no value for {missing} selected cells; "
                "`unlabelled='drop'` leaves them out, `unlabelled='keep'` shows them with the code -1"
            )
        return codes

    def _labelled(self, names: Sequence[str]) -> Ints | None:
        """Selected rows of cells that have a value in all columns; None for all."""
        has = np.ones(self.n_selected, bool)
        for name in names:
            has &= self._of_selected(self.atlas.small_codes(name)) >= 0
        if has.all():
            return self._rows
        selected = np.arange(self.n_selected) if self._rows is None else self._rows
        return selected[has].astype(np.uint32 if self.atlas.n_cells < 1 << 32 else np.int64)

    def _draw_weights(self, balance: str | None, weights: npt.ArrayLike | None) -> Floats | None:
        if balance is not None and weights is not None:
            raise BadInput("both `balance` and `weights` are given; expected one of them")
        if balance is not None:
            codes = self._of_selected(self._checked_codes(balance))
            return (1 / np.maximum(np.bincount(codes), 1))[codes]
        if weights is None:
            return None
        weights = np.asarray(weights, np.float64)
        if weights.shape != (self.atlas.n_cells,):
            raise BadInput(f"weights have shape {weights.shape}; expected ({self.atlas.n_cells},), one a cell")
        return self._of_selected(weights)

    def _of_selected(self, values: Array) -> Array:
        return values if self._rows is None else values[self._rows]

    @cached_property
    def _fingerprint(self) -> int:
        """Checksum of all that fixes the order besides seed, epoch and ranks."""
        windows = (self._fits, self._block_rows, self._window_batches)
        check = zlib.crc32(repr((self.atlas.fingerprint, self.batch_size, self.shuffle, windows)).encode())
        for part in (self._rows, self._weights):
            check = zlib.crc32(b"" if part is None else np.ascontiguousarray(part).data, check)
        return check


def _rows_of(plan: EpochPlan, window: int, share: Share) -> tuple[Ints, list[tuple[int, tuple[int, int]]]]:
    """Rows of a window, and (number, (start, stop)) of the batches in them: those of a share."""
    rows = plan.window_rows(window)
    first = window * plan.window_batches
    numbered = [(first + i, edge) for i, edge in enumerate(_edges(plan.window_sizes(window)))]
    if share.n_workers > 1:
        mine = [(number, edge) for number, edge in numbered if share.has(number)]
        rows = np.concatenate([np.empty(0, np.int64), *(rows[slice(*edge)] for _, edge in mine)])
        edges = _edges(np.array([stop - start for _, (start, stop) in mine], np.int64))
        numbered = [(number, edge) for (number, _), edge in zip(mine, edges, strict=True)]
    return rows, numbered


def _default_block_rows(reader: Reader, atlas: Atlas, window_rows: int | Fraction) -> int:
    """Rows a block: few enough to mix well, many enough to read well."""
    if reader.block_rows is not None:
        return reader.block_rows
    if atlas.is_shuffled:
        return int(np.clip(window_rows // 16, 1, 1024))
    return int(np.clip(window_rows // MIXING_BLOCKS, 1, 1024))


def _select(atlas: Atlas, split: str | None, rows: npt.ArrayLike | None) -> Ints | None:
    """Selected rows, sorted, in the smallest type that holds them; None for all."""
    kind = np.uint32 if atlas.n_cells < 1 << 32 else np.int64
    if rows is None:
        return None if split is None else atlas.rows(split).astype(kind)
    rows = np.asarray(rows)
    if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
        raise BadInput(f"rows have shape {rows.shape} and type {rows.dtype}; expected a list of row numbers")
    unique = np.unique(rows)
    if len(unique) != len(rows):
        raise BadInput(f"rows name {len(rows) - len(unique)} cells twice; expected each once (weights repeat cells)")
    if len(unique) and (unique[0] < 0 or unique[-1] >= atlas.n_cells):
        raise BadInput(f"rows run from {unique[0]} to {unique[-1]}; {atlas.name} has rows 0 to {atlas.n_cells - 1}")
    if split is not None:
        unique = np.intersect1d(unique, atlas.rows(split), assume_unique=True)
    return unique.astype(kind)


def _edges(sizes: Ints) -> list[tuple[int, int]]:
    """(start, stop) of consecutive parts of these sizes."""
    ends = np.cumsum(sizes).tolist()
    return list(zip([0, *ends[:-1]][: len(ends)], ends, strict=True))
