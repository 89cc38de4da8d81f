"""`AtlasDataModule`: the streams of an atlas for Lightning."""

from collections.abc import Sequence
from typing import Any

from lightning import LightningDataModule

from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas, open_atlas
from data_loaders.streaming.stream import CellStream
from data_loaders.types import PathLike


class AtlasDataModule(LightningDataModule):
    """Train, validation and test streams of an atlas, one part for each rank.

    Training cells come shuffled, in another order every epoch, others in the order of the store. Give the trainer
    `use_distributed_sampler=False`: the streams know their rank. A training resumed from a checkpoint in
    the middle of an epoch continues with the next batch.

    Parameters
    ----------
    atlas : Atlas or path
    batch_size : int
    labels : sequence of str
        Obs columns whose codes go with each batch; the atlas's label columns when left out.
    seed : int
    **options
        Of the training stream: `balance`, `weights`, `rows`, ...; those that do not change what is shown (`modalities`,
        `buffer_bytes`) are used for all streams.

    Notes
    -----
    Batches are `CellBatch`; Lightning moves them to the device by their `to`, sparse.
    """

    def __init__(
        self,
        atlas: Atlas | PathLike,
        batch_size: int,
        *,
        labels: Sequence[str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.atlas = atlas if isinstance(atlas, Atlas) else open_atlas(atlas)
        self.batch_size, self.seed, self.options = batch_size, seed, options
        self.labels = tuple(self.atlas.labels if labels is None else labels)

    def train_dataloader(self) -> CellStream:
        """Stream of the training cells; of all cells when the atlas has no split."""
        if "split" not in self.atlas.obs_columns:
            return self._stream(None, shuffle=True, **self.options)
        return self._stream("train", shuffle=True, **self.options)

    def val_dataloader(self) -> CellStream | list[CellStream]:
        """Stream of the validation cells, or nothing when there are none."""
        return self._held_out("val") if self._count("val") else []

    def test_dataloader(self) -> CellStream:
        """Stream of the test cells.

        Raises
        ------
        BadInput
            When there are none.
        """
        if not self._count("test"):
            raise BadInput(f"{self.atlas.name}: no cell has the split 'test'")
        return self._held_out("test")

    def predict_dataloader(self) -> CellStream:
        """Stream of all cells in the order of the store."""
        return self._held_out(None)

    def _held_out(self, split: str | None) -> CellStream:
        shared = {name: self.options[name] for name in ("modalities", "buffer_bytes") if name in self.options}
        return self._stream(split, shuffle=False, **shared)

    def _stream(self, split: str | None, **options: Any) -> CellStream:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return CellStream(
            self.atlas,
            self.batch_size,
            split=split,
            labels=self.labels,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            **options,
        )

    def _count(self, split: str) -> int:
        if "split" not in self.atlas.obs_columns or split not in self.atlas.categories("split"):
            return 0
        return len(self.atlas.rows(split))
