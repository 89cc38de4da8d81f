"""Lightning checkpoints as data: read without executing anything, and refused in words when they are damaged."""

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from pydantic import Field
from torch import nn

from cfgen_dist.training.ranks import on_main
from cfgen_dist.training.saves import Saver
from data_loaders.errors import BadInput
from data_loaders.records import Record, check_form, one_line, show
from data_loaders.types import PathLike
from data_loaders.vouchers import check_vouched, write_vouched

LAST = "last.ckpt"
WAY_ON = "; without that file the stage starts again"
RESTORING = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError)


class Position(Record):
    """Where the stream of cells stands; `shown` has the numbers of ranks and of batches of parts of the epoch."""

    epoch: Annotated[int, Field(ge=0, lt=1 << 31)]
    shown: list[Annotated[list[Annotated[int, Field(ge=0, lt=1 << 20)]], Field(min_length=2, max_length=2)]]
    seed: int
    check: int


class CheckpointForm(Record):
    """What is read of a checkpoint here; the rest is Lightning's."""

    epoch: Annotated[int, Field(ge=0, lt=1 << 31)]
    global_step: Annotated[int, Field(ge=0, lt=1 << 48)]
    state_dict: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]
    optimizer_states: Annotated[list[dict[str, Any]], Field(min_length=1)]
    lr_schedulers: list[dict[str, Any]]
    loops: dict[str, dict[str, Any]]


@contextmanager
def whole(path: PathLike) -> Iterator[None]:
    """Turn what torch raises on a damaged checkpoint into `BadInput`."""
    try:
        yield
    except (*RESTORING, EOFError, RecursionError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path} is damaged ({one_line(error)}){WAY_ON}") from error


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """The contents of a checkpoint, a dict, on the CPU; BadInput when it is none, or of another form."""
    check_vouched(path, WAY_ON)
    with whole(path):
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        check_form(checkpoint, CheckpointForm, "it")
        return checkpoint


def check_fits(path: PathLike, network: nn.Module) -> None:
    """Refuse a checkpoint whose weights are not those of this network, by name, shape and type."""
    expected = network.state_dict()
    for key, found in read_checkpoint(path)["state_dict"].items():
        wanted = expected.pop(key, None)
        if wanted is None or not isinstance(found, torch.Tensor):
            raise BadInput(f"{path} is damaged ({show(key)} is no weight of this network){WAY_ON}")
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise BadInput(f"{path} is damaged ({key} is of another shape or type){WAY_ON}")
    if expected:
        raise BadInput(f"{path} is damaged ({next(iter(expected))} is missing){WAY_ON}")


class Restored(Callback):
    """Knows when a checkpoint was taken up: what goes wrong before that is the checkpoint's fault.

    Parameters
    ----------
    path : path-like or None
        The checkpoint, if there is one.
    schedulers : int
        How many schedules of learning rates are in it.
    """

    def __init__(self, path: PathLike | None = None, schedulers: int = 0) -> None:
        self.path, self.schedulers, self.done = path, schedulers, False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """See whether the optimisers fit: torch takes up moments of any shape, or none."""
        if self.path is not None:
            if self.schedulers != len(trainer.lr_scheduler_configs):
                raise BadInput(f"{self.path} is damaged (other schedules of the learning rate){WAY_ON}")
            for optimizer in trainer.optimizers:
                fits = [
                    value.ndim == 0 or value.shape == weight.shape
                    for weight, state in optimizer.state.items()
                    for value in state.values()
                    if isinstance(value, torch.Tensor)
                ]
                if not fits or not all(fits):
                    raise BadInput(f"{self.path} is damaged (the optimiser's moments are of another shape){WAY_ON}")
        self.done = True


@contextmanager
def taking_up(path: PathLike | None, restored: Restored) -> Iterator[None]:
    """Turn what Lightning raises on a checkpoint of wrong form, before the training starts, into `BadInput`."""
    try:
        yield
    except (BadInput, torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    except RESTORING as error:
        if path is None or restored.done:
            raise
        raise BadInput(f"{path} is damaged ({one_line(error)}){WAY_ON}") from error


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and that all ranks read through rank 0.

    Parameters
    ----------
    saver : Saver, optional
        Puts the state of the stage into a bucket whenever its `last.ckpt` has been written.
    """

    def __init__(self, saver: Saver | None = None) -> None:
        super().__init__()
        self.saver = saver
        self._written: dict[PathLike, str] = {}  # by this process: SHA-256 of what is there

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, storage_options: Any = None) -> None:
        """Write a checkpoint; the one before stays until the new one is on disk."""
        buffer = io.BytesIO()  # torch.save hides what the disk says: "no space left" must reach the user
        torch.save(checkpoint, buffer)
        self._written[path] = write_vouched(path, buffer.getbuffer(), self._written.get(path))
        if self.saver is not None and Path(path).name == LAST:
            self.saver.take(Path(path).parent, checkpoint["global_step"])

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint on rank 0, for all."""

        def read() -> dict[str, Any]:
            check_vouched(path, WAY_ON)
            with whole(path):
                return super(WholeCheckpoints, self).load_checkpoint(path, map_location, weights_only=True)

        return on_main(read)


def save_last(trainer: L.Trainer, path: str | Path, wait: bool = False) -> None:
    """Save the checkpoint to resume from; all ranks call this together.

    Parameters
    ----------
    trainer : lightning.Trainer
    path : path-like
        `last.ckpt` of the stage.
    wait : bool
        Of a run in a bucket: come back only when the checkpoint is there. It goes up in the background otherwise.

    Raises
    ------
    BadInput
        With `wait`, when the bucket does not take it.
    """
    trainer.save_checkpoint(path)
    files = trainer.strategy.checkpoint_io
    if wait and isinstance(files, WholeCheckpoints) and files.saver is not None:
        on_main(files.saver.wait)


def place_of(checkpoint: PathLike) -> dict[str, Any]:
    """Where a checkpoint stands: steps done, and the position of the stream."""
    saved = read_checkpoint(checkpoint)
    with whole(checkpoint):
        (position,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        check_form(position, Position, "the position of the stream")
    return {"step": saved["global_step"], "position": position, "schedulers": len(saved["lr_schedulers"])}


def best_state(directory: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The module's weights in `directory/best.ckpt`, and the epoch they are of, from 0.

    Raises
    ------
    BadInput
        No epoch had a held-out value that is a number.
    """

    def read() -> tuple[dict[str, torch.Tensor], int, float]:
        checkpoint = read_checkpoint(directory / "best.ckpt")
        states = [state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint")]
        with whole(directory / "best.ckpt"):
            return checkpoint["state_dict"], checkpoint["epoch"], float(states[0]["best_model_score"])

    state, epoch, value = on_main(read)
    if not math.isfinite(value):
        raise BadInput(f"the training of the {directory.name} diverged: its held-out value is {value}; lower its lr")
    return state, epoch
