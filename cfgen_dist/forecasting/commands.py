"""What each command will take on this machine: rehearsed on a few cells for some seconds, then scaled to all.

`ingest` and `generate` are run for real on a sample; training is the sum of its steps, each timed (`steps.py`);
evaluation follows a law that was fitted to runs, scaled by how fast this machine is (`machine.py`), since most of it is
of fixed size. To each comes what a command takes to start.
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from cfgen_dist.config import Config
from cfgen_dist.forecasting import machine
from cfgen_dist.forecasting.costs import checks, n_steps, networks
from cfgen_dist.forecasting.machine import Times
from cfgen_dist.forecasting.steps import Seconds
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.trained import TrainedModel
from cfgen_dist.training.encode import BATCH_SIZE
from cfgen_dist.training.stages import assemble
from data_loaders import Atlas, ingest

SAMPLE_VALUES = 3_000_000  # counts of the cells that ingest is rehearsed with, at most, and cells
SAMPLE_CELLS = 20_000
REHEARSAL = 2.5  # seconds of generation
# Until the first cell and after the last: times what a new process takes to import the libraries, alone and with Ray.
STARTS = {"ingest": 0.45, "train": 2.2, "generate": 1.0, "evaluate": 1.3}
RAY_STARTS = {"train": 6.0, "generate": 3.0, "evaluate": 3.0}
OVERHEAD = 6e-4  # what Lightning and our callbacks take for a step, times the same
SETS, FLOOR_SETS = 3, 5  # the defaults of `evaluate`
# Evaluation: transports that scoring a set is worth, whose subsamples are full from some thousand test cells on, and
# that each cell compared is worth, fitted to the runs of docs/cluster.md.
FULL_CELLS, OF_A_SET, OF_A_CELL = 16_000, 210.0, 8e-4


@dataclass(frozen=True)
class CommandForecast:
    """One command on this machine.

    Attributes
    ----------
    command : str
    cells : int
        That it reads or makes.
    workers : int
    seconds, cpu_seconds : float
        From start to end, by the clock and of all cores.
    """

    command: str
    cells: int
    workers: int
    seconds: float
    cpu_seconds: float


def train_seconds(
    config: Config, splits: Mapping[str, int], n_cells: int, workers: int, each: Seconds, start: Times, cores: int
) -> Times:
    """What `train` takes with all its epochs, without its start.

    Parameters
    ----------
    config : Config
        Settled.
    splits : dict of str to int
        Cells of each split, in any proportion to `n_cells`.
    n_cells, workers : int
    each : Seconds
        Measured for as many workers.
    start : Times
        To import the libraries.
    cores : int
        Of this machine: where workers take all of them, reading takes its time from the steps.
    """
    fit, encoded, match = n_steps(config, splits, n_cells)
    overhead = OVERHEAD * start * [1, workers]
    reading = config.autoencoder.batch_size * each.read * [1 / workers, 1]
    both = each.autoencoder + overhead + reading
    if workers < cores:
        both[0] = max(each.autoencoder[0] + overhead[0], reading[0])
    first, second = checks(config, splits, n_cells)
    encoding = encoded * (each.encode + BATCH_SIZE * each.read) * [1 / workers, 1]
    checking = first * (each.check_autoencoder + reading) + second * each.check_flow
    total: Times = fit * both + match * (each.flow + overhead) + encoding + checking
    return total


def rehearse_ingest(atlas: Atlas, n_cells: int) -> Times:
    """What `ingest` takes for `n_cells` such cells in an uncompressed h5ad file, without its start."""
    per_cell = max(1.0, _values(atlas) / atlas.n_cells)
    n = int(min(atlas.n_cells, SAMPLE_CELLS, SAMPLE_VALUES / per_cell))
    labels = list(atlas.labels)
    found: list[Times] = []
    with tempfile.TemporaryDirectory(prefix="cfgen-plan-") as folder, quiet():
        for part in (max(2, n // 8), max(2, n // 8), n):  # the first compiles
            rows = np.arange(part)
            obs = pd.DataFrame({name: atlas.obs(name)[rows] for name in labels}, index=[f"c{row}" for row in rows])
            path = Path(folder) / f"{len(found)}.h5ad"
            ad.AnnData(atlas.read_sparse(rows).to_scipy(), obs, atlas.var[[]]).write_h5ad(path)
            out = Path(folder) / f"{len(found)}.zarr"
            found.append(machine.taken_by(partial(ingest, path, out, min_cells=0, drop_empty=True)))
    return _line(n_cells, (max(2, n // 8), found[1]), (n, found[2]))


def untrained_model(atlas: Atlas, config: Config) -> TrainedModel:
    """A model that draws about as many counts as the cells of the atlas have: its decoder starts at their profile."""
    import torch

    tasks = networks(atlas, config)
    autoencoder, velocity = tasks.autoencoder.autoencoder.eval(), tasks.flow.velocity.eval()
    if isinstance(autoencoder, Autoencoder):
        autoencoder.start_at(torch.as_tensor(atlas.var["mean"].to_numpy(), dtype=torch.float32), atlas.n_cells)
    return assemble(atlas, config, autoencoder, velocity, {})


def rehearse_generate(model: TrainedModel, n_cells: int, workers: int) -> Times:
    """What `generate` takes with threads or actors, without its start."""
    from cfgen_dist.generation.options import Sampling
    from cfgen_dist.generation.plan import make_plan
    from cfgen_dist.generation.run import generate

    with tempfile.TemporaryDirectory(prefix="cfgen-plan-") as folder, quiet():
        batch = make_plan(model, 1, sampling=Sampling()).batch_size

        def made(name: str, batches: int) -> tuple[int, Times]:
            n = workers * batches * batch
            call = partial(generate, model, Path(folder) / name, n, workers=workers, shard_size=batch)  # type: ignore[arg-type]
            return n, machine.taken_by(call)

        made("compiled.zarr", 1)
        few = made("few.zarr", 1)
        return _line(n_cells, few, made("many.zarr", 1 + int(np.clip(REHEARSAL / few[1][0], 2, 64))))


def _line(n: int, few: tuple[int, Times], many: tuple[int, Times]) -> Times:
    """What n cells take, of what few and many take."""
    slope = np.maximum(0.0, many[1] - few[1]) / max(1, many[0] - few[0])
    total: Times = slope * n + np.maximum(0.0, few[1] - slope * few[0])
    return total


def evaluate_seconds(atlas: Atlas, n_cells: int, n_generated: int, workers: int) -> Times:
    """What `evaluate` takes for that many real and generated cells, without its start.

    A law fitted to runs (docs/cluster.md): a set is scored on subsamples of fixed size, and all cells are read. The
    unit is `machine.transport`, measured here, which scoring mostly consists of.
    """
    splits = atlas.card["splits"] if atlas.card else {"test": 1}
    test = max(1.0, n_cells * splits.get("test", 0) / max(1, sum(splits.values())))
    generated = int(np.clip(n_generated // test, 1, SETS))
    sets = generated + int(np.clip((n_cells - test) // test, 1, FLOOR_SETS))
    units = sets * (OF_A_SET * min(1.0, test / FULL_CELLS) + OF_A_CELL * test)
    return machine.transport() * units * np.array([1 / min(workers, sets), 1.0])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a rehearsed command says of its progress to itself."""
    loggers = [logging.getLogger(name) for name in ("cfgen_dist", "data_loaders")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):  # no terminal there: no bars
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _values(atlas: Atlas) -> float:
    """Stored counts of an atlas, from its card or from some rows."""
    card = atlas.card
    if card is not None and "nnz" in card:
        return float(card["nnz"])
    rows = np.arange(min(atlas.n_cells, 1000))
    return float(np.diff(atlas.read_sparse(rows).indptr).mean() * atlas.n_cells)
