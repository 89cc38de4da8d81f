"""What both training stages share: the Lightning trainer with its loggers, checkpoints, progress and seeds."""

import csv
import logging
import sys
import time
import warnings

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from data_loaders.files import write_whole

log = logging.getLogger("cfgen_dist")
LAST = "last.ckpt"
STAGES = ("autoencoder", "autoencoder, refit", "flow")
LOG_EVERY = 10  # steps; written at once, so that a killed run keeps its metrics up to its last checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all: the one before stays until the new one is on disk."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write a checkpoint."""
        write_whole(path, lambda file: torch.save(checkpoint, file))


class SeedEveryStep(Callback):
    """Seed torch from (seed, stage, step, rank) before every training step.

    A step's random draws are then a function of where it stands, so a run that was interrupted and resumed draws what
    the uninterrupted run draws.
    """

    def __init__(self, seed, stage):
        self.seed, self.stage = seed, STAGES.index(stage)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        """Seed this step."""
        key = (self.stage, trainer.global_step, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1, np.uint64)[0] >> 1))


class PlainProgress(Callback):
    """A line now and then, for logs that are not a terminal."""

    def __init__(self, stage, metric, seconds=10):
        self.stage, self.metric, self.seconds = stage, metric, seconds
        self.cells, self.since = 0, time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        """Count the cells, and speak when it is time."""
        self.cells += len(batch)
        passed = time.monotonic() - self.since
        if passed < self.seconds or trainer.global_rank:
            return
        value = trainer.callback_metrics.get(self.metric)
        log.info(
            "%s: epoch %d, step %d%s, %s cells/s",
            self.stage,
            trainer.current_epoch,
            trainer.global_step,
            "" if value is None else f", {self.metric} {value:.4f}",
            f"{self.cells / passed:,.0f}",
        )
        self.cells, self.since = 0, time.monotonic()


def fit(module, train_stream, val_stream, *, directory, stage, metric, config, callbacks=(), **limits):
    """Train `module`, continuing from `directory/last.ckpt` if it exists.

    Parameters
    ----------
    module : lightning.LightningModule
        Logs `metric` in validation.
    train_stream : iterable of batches
    val_stream : iterable of batches, or None
        Without it nothing is validated and there is no best checkpoint.
    directory : Path
        Gets `metrics.csv`, `last.ckpt` and `best.ckpt`.
    stage : str
        Name for progress lines and seeds.
    metric : str
        Validation metric that the best checkpoint minimises.
    config : Config
    callbacks : sequence of Callback
    **limits
        Passed to lightning.Trainer: max_epochs or max_steps, gradient_clip_val, val_check_interval, ...

    Returns
    -------
    lightning.Trainer
        After fitting.
    """
    directory.mkdir(parents=True, exist_ok=True)
    last = directory / LAST
    resume = last.exists()
    terminal = sys.stderr.isatty()
    # Validation runs before the periodic save, so the last checkpoint knows the early stopping's count.
    place = {"dirpath": directory, "enable_version_counter": False}
    periodic = ModelCheckpoint(filename="last", every_n_train_steps=config.checkpoint_every_n_steps, **place)
    kept = [periodic]
    if val_stream is not None:
        kept.insert(0, ModelCheckpoint(filename="best", monitor=metric, mode="min", **place))
    with warnings.catch_warnings():
        # Few cells make few steps an epoch, and the streams need no worker processes: neither is worth a warning.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*number of training batches.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", ".*Previous log files in this directory.*")  # `_logger` has read them
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        logger = _logger(directory, last if resume else None)
        trainer = L.Trainer(
            default_root_dir=directory,
            accelerator=config.accelerator,
            devices=1,
            precision=config.precision,
            logger=logger,
            callbacks=[
                *callbacks,
                SeedEveryStep(config.seed, stage),
                RichProgressBar() if terminal else PlainProgress(stage, metric),
                *kept,
            ],
            plugins=[WholeCheckpoints()],
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=LOG_EVERY,
            **limits,
        )
        try:
            trainer.fit(module, train_stream, val_stream, ckpt_path=last if resume else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    return trainer


def best_state(directory):
    """The module's weights in `directory/best.ckpt`, and the epoch they are of, from 0."""
    checkpoint = torch.load(directory / "best.ckpt", weights_only=True, map_location="cpu")
    return checkpoint["state_dict"], checkpoint["epoch"]


def _logger(directory, checkpoint):
    """A CSV logger; after an interruption it keeps the rows up to the checkpoint."""
    path, rows = directory / "metrics.csv", []
    if checkpoint is not None and path.exists():
        step = torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"]
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    path.unlink(missing_ok=True)
    logger = CSVLogger(save_dir=directory.parent, name=directory.name, version="", flush_logs_every_n_steps=LOG_EVERY)
    for row in rows:
        logger.log_metrics({k: float(v) for k, v in row.items() if k != "step" and v != ""}, int(row["step"]))
    return logger
