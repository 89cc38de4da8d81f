"""Where metrics go (a CSV file always, TensorBoard where it is installed), and the mean over held-out cells."""

import csv
import math
from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning_utilities.core.imports import RequirementCache
from torchmetrics import MeanMetric

TENSORBOARD = RequirementCache("tensorboard")


def open_loggers(directory: Path, step: int | None, every: int) -> list[Logger]:
    """The loggers of a stage, continuing after so many steps (None: from the start).

    Parameters
    ----------
    directory : Path
        Gets `metrics.csv` and, with TensorBoard installed, `tensorboard/`.
    step : int or None
        Of the checkpoint. Rows after it were lost with the steps that wrote them, and are written again.
    every : int
        Steps between entries, each put on disk at once: a killed run keeps its metrics up to its last checkpoint.
    """
    path = directory / "metrics.csv"
    rows: list[dict[str, str]] = []
    if step is not None and path.exists():
        with open(path, newline="") as file:
            whole = (row for row in csv.DictReader(file) if None not in row.values())  # a kill may cut the last one
            rows = [row for row in whole if int(row["step"]) < step]
    path.unlink(missing_ok=True)
    table = CSVLogger(save_dir=directory.parent, name=directory.name, version="", flush_logs_every_n_steps=every)
    for row in rows:
        table.log_metrics({k: float(v) for k, v in row.items() if k != "step" and v != ""}, int(row["step"]))
    if not TENSORBOARD:
        return [table]
    return [table, TensorBoardLogger(save_dir=directory, name="tensorboard", version="", purge_step=step)]


def mean_over_ranks() -> MeanMetric:
    """A mean weighted by cells, exact over ranks whose parts differ in size.

    Update it with a batch's mean and `weight` its cells. Lightning's own `self.log(..., sync_dist=True)` divides the
    sums over ranks of values and of cells by the number of ranks, the cells as integers: with 31 cells on one rank and
    30 on another its mean is 61/60 of the true one. A batch whose mean is no number makes the whole infinite; left to
    itself the metric would pass over that batch.
    """
    mean = MeanMetric(nan_strategy=math.inf)
    mean.set_dtype(torch.float64)
    return mean
