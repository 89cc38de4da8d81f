"""Lightning checkpoints as data: read without executing anything, and refused in words when they are damaged."""

import pickle
from contextlib import contextmanager

import torch

from data_loaders.errors import BadInput


@contextmanager
def whole(path):
    """Turn what torch raises on a damaged checkpoint into `BadInput`."""
    try:
        yield
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path} is damaged ({reason}); without that file the stage starts again") from error


def read_checkpoint(path):
    """The contents of a checkpoint, a dict, on the CPU."""
    with whole(path):
        return torch.load(path, weights_only=True, map_location="cpu")
