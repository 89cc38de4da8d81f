"""Lightning checkpoints as data: read without executing anything, and refused in words when they are damaged."""

import io
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cfgen_dist.training.ranks import on_main
from data_loaders.errors import BadInput
from data_loaders.types import PathLike
from data_loaders.vouchers import check_vouched, write_vouched

LAST = "last.ckpt"


@contextmanager
def whole(path: PathLike) -> Iterator[None]:
    """Turn what torch raises on a damaged checkpoint into `BadInput`."""
    try:
        yield
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is damaged ({reason}); without that file the stage starts again") from error


def read_checkpoint(path: PathLike) -> dict[str, Any]:
    """The contents of a checkpoint, a dict, on the CPU."""
    check_vouched(path, "without that file the stage starts again")
    with whole(path):
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and that all ranks read through rank 0."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[PathLike, str] = {}  # by this process: SHA-256 of what is there

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, storage_options: Any = None) -> None:
        """Write a checkpoint; the one before stays until the new one is on disk."""
        buffer = io.BytesIO()  # torch.save hides what the disk says: "no space left" must reach the user
        torch.save(checkpoint, buffer)
        self._written[path] = write_vouched(path, buffer.getbuffer(), self._written.get(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint on rank 0, for all."""

        def read() -> dict[str, Any]:
            check_vouched(path, "without that file the stage starts again")
            with whole(path):
                return super(WholeCheckpoints, self).load_checkpoint(path, map_location, weights_only=True)

        return on_main(read)


def place_of(checkpoint: PathLike) -> dict[str, Any]:
    """Where a checkpoint stands: steps done, and the position of the stream."""
    saved = read_checkpoint(checkpoint)
    (position,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    return {"step": saved["global_step"], "position": position}


def best_state(directory: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The module's weights in `directory/best.ckpt`, and the epoch they are of, from 0.

    Raises
    ------
    BadInput
        No epoch had a held-out value that is a number.
    """

    def read() -> tuple[dict[str, torch.Tensor], int, float]:
        checkpoint = read_checkpoint(directory / "best.ckpt")
        saved = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
        return checkpoint["state_dict"], checkpoint["epoch"], float(saved["best_model_score"])

    state, epoch, value = on_main(read)
    if not math.isfinite(value):
        raise BadInput(f"the training of the {directory.name} diverged: its held-out value is {value}; lower its lr")
    return state, epoch
