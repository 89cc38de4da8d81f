"""Whether the disk can hold what a plan asks for: asked before anything is made, at the same cost for any plan."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cfgen_dist.generation.shard import sample_shard
from data_loaders.errors import BadInput
from data_loaders.storage import is_remote
from data_loaders.types import PathLike

if TYPE_CHECKING:
    from cfgen_dist.generation.plan import Plan
    from cfgen_dist.model.trained import TrainedModel

FEW_CELLS = 100_000  # a plan of fewer is not looked at: making the sample would take as long
SAMPLE = 64  # cells that are made to see how large cells are
OF_STORE = 0.25  # least size of the store, as a share of its parts, which are there until it is put together
OF_OBS = 12  # bytes of a cell beside its counts and labels


def check_room(out: PathLike, model: TrainedModel, plan: Plan) -> None:
    """Refuse a plan that the disk of `out` cannot hold.

    Parameters
    ----------
    out : path-like
    model : TrainedModel
        On any device.
    plan : Plan

    Raises
    ------
    BadInput
        With the estimate, and what is free. It is made from cells of the plan's own combinations, and a low one: a disk
        that runs full later still ends the command in one line, and `resume` goes on.
    """
    if plan.n_cells < FEW_CELLS or is_remote(out):  # a bucket has no end
        return
    path = Path(out).absolute()
    parts = path.with_name(path.name + ".parts")
    there = sum(file.stat().st_size for file in parts.iterdir()) if parts.is_dir() else 0
    needed = int(bytes_per_cell(model, plan) * plan.n_cells * (1 + OF_STORE)) - there
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadInput(
            f"{out}: {plan.n_cells:,} cells need about {in_words(needed)} more, {in_words(free)} are free; expected "
            "fewer cells, or a larger disk"
        )


def bytes_per_cell(model: TrainedModel, plan: Plan) -> float:
    """Bytes of a cell of a plan in the parts, about: from cells in the proportions of the plan."""
    counts = np.asarray(plan.counts, dtype=np.float64)
    each = np.floor(np.cumsum(counts) / counts.sum() * SAMPLE).astype(np.int64)
    few = np.diff(each, prepend=0)
    few[-1] += SAMPLE - each[-1]
    codes = [code for code, n in zip(plan.codes, few, strict=True) if n]
    sample = dataclasses.replace(
        plan, codes=codes, counts=few[few > 0].tolist(), shard_size=SAMPLE, batch_size=SAMPLE, device="cpu"
    )
    drawn, labels = sample_shard(model.to(sample.device), 0, sample)
    size = float(OF_OBS * SAMPLE + labels.size * 4)
    for matrix in drawn.values():
        widths = np.min_scalar_type(matrix.data.max(initial=0)).itemsize + (2 if matrix.shape[1] <= 1 << 16 else 4)
        size += matrix.nnz * widths + 8 * SAMPLE
    return size / SAMPLE


def in_words(n_bytes: float) -> str:
    """A number of bytes, as people say it."""
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if n_bytes < 1000 or unit == "PB":
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError
