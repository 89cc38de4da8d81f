"""What both training stages share: the Lightning trainer with its loggers, checkpoints, progress and seeds."""

import io
import logging
import math
import os
import sys
import time
import warnings

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from cfgen_dist.training.batch_norm import over_all_ranks
from cfgen_dist.training.callbacks import Monitor
from cfgen_dist.training.checkpoints import read_checkpoint, whole
from cfgen_dist.training.metrics import open_loggers
from cfgen_dist.training.ranks import on_main, rank, world_size
from data_loaders.errors import BadInput
from data_loaders.files import write_whole

LAST = "last.ckpt"
STAGES = ("autoencoder", "autoencoder, refit", "flow")
LOG_EVERY = 10  # steps
# Few cells make few steps an epoch, the streams need no worker processes, the loggers have read what they replace, and
# nobody reduces losses of the training step, which are each rank's own.
NO_WARNING = (
    "does not have many workers",
    "number of training batches",
    "Checkpoint directory .* exists and is not empty",
    "LeafSpec",
    "have no `val_dataloader`",
    "Previous log files in this directory",
    "recommended to use `self.log",
)


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and that all ranks read through rank 0."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write a checkpoint; the one before stays until the new one is on disk."""
        buffer = io.BytesIO()  # torch.save hides what the disk says: "no space left" must reach the user
        torch.save(checkpoint, buffer)
        write_whole(path, lambda file: file.write(buffer.getbuffer()))

    def load_checkpoint(self, path, map_location="cpu", weights_only=True):
        """Read a checkpoint on rank 0, for all."""

        def read():
            with whole(path):
                return super(WholeCheckpoints, self).load_checkpoint(path, map_location, weights_only=True)

        return on_main(read)


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


class SaveLast(Checkpoint):
    """Save the checkpoint to resume from every so many steps and, if asked to, minutes.

    What is due at the last step of an epoch waits until the epoch has been validated. Lightning takes an epoch saved in
    between for finished: a run resumed from there would not validate it, so it could not become the best, and early
    stopping would not count it.
    """

    def __init__(self, path, steps, minutes):
        self.path, self.steps, self.minutes, self.due = path, steps, minutes, False

    def on_train_start(self, trainer, module):
        """Start the clock."""
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        """Save, or wait for the end of the epoch."""
        self.due = trainer.global_step % self.steps == 0
        if self.minutes and trainer.global_step % LOG_EVERY == 0:  # the ranks' agreement takes its time
            self.due |= trainer.strategy.broadcast(time.monotonic() - self.saved >= 60 * self.minutes)
        if not (trainer.is_last_batch and trainer.check_val_every_n_epoch):
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer, module):
        """Save what has waited; a training that ends here has no use for it."""
        if not trainer.should_stop:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer):
        if self.due:
            trainer.save_checkpoint(self.path)
            self.due, self.saved = False, time.monotonic()


class HalfGradients(Callback):
    """Ranks exchange gradients as bfloat16: half the traffic. Lightning's own option does so on GPUs only."""

    def on_train_start(self, trainer, module):
        """Tell the wrapped module."""
        trainer.model.register_comm_hook(None, bf16_compress_hook)


def fit(module, train_stream, val_stream, *, directory, stage, metric, config, callbacks=(), **limits):
    """Train `module`, continuing from `directory/last.ckpt` if it exists.

    In a process group every rank calls this, with its own streams; gradients are averaged over ranks.

    Parameters
    ----------
    module : lightning.LightningModule
        Logs `metric` in validation; `networks()` says what to compile.
    train_stream : TrainingStream
    val_stream : iterable of batches, or None
        Without it nothing is validated and there is no best checkpoint.
    directory : Path
        Gets `metrics.csv`, `tensorboard/`, `last.ckpt` and `best.ckpt`.
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
    place = on_main(lambda: _place(last) if last.exists() else None)
    if place:  # Lightning itself takes a position up only in the middle of an epoch
        train_stream.load_state_dict(place["position"])
    terminal = sys.stderr.isatty()
    if world_size() > 1:
        over_all_ranks(module)
        callbacks = [*callbacks, HalfGradients()] if config.all_reduce == "bfloat16" else callbacks
    if config.compile:
        for network in module.networks():
            network.compile(dynamic=True)  # batches differ by a cell
    with warnings.catch_warnings():
        for message in NO_WARNING:
            warnings.filterwarnings("ignore", f".*{message}.*")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        trainer = L.Trainer(
            default_root_dir=directory,
            accelerator=config.accelerator,
            precision=config.precision,
            logger=False if rank() else open_loggers(directory, place and place["step"], LOG_EVERY),
            callbacks=[
                *_checkpoints(directory, metric if val_stream is not None else None, config),
                *callbacks,
                SeedEveryStep(config.seed, stage),
                Monitor(stage, metric, train_stream, LOG_EVERY, aloud=not terminal and not rank()),
                *([RichProgressBar()] if terminal else []),
            ],
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=LOG_EVERY,
            **_placement(),
            **limits,
        )
        try:
            trainer.fit(module, train_stream, val_stream, ckpt_path=last if place else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    return trainer


def _place(checkpoint):
    """Where a checkpoint stands: steps done, and the position of the stream."""
    saved = read_checkpoint(checkpoint)
    (position,) = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    return {"step": saved["global_step"], "position": position}


def best_state(directory):
    """The module's weights in `directory/best.ckpt`, and the epoch they are of, from 0.

    Raises
    ------
    BadInput
        No epoch had a held-out value that is a number.
    """

    def read():
        checkpoint = read_checkpoint(directory / "best.ckpt")
        saved = next(state for key, state in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
        return checkpoint["state_dict"], checkpoint["epoch"], float(saved["best_model_score"])

    state, epoch, value = on_main(read)
    if not math.isfinite(value):
        raise BadInput(f"the training of the {directory.name} diverged: its held-out value is {value}; lower its lr")
    return state, epoch


def _placement():
    """Arguments of the trainer that say on how many devices of which machines it runs."""
    if world_size() == 1:
        return {"devices": 1, "plugins": [WholeCheckpoints()]}
    # No buffer differs between ranks: BatchNorm sees all of them.
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    if os.environ.get("GROUP_WORLD_SIZE") == str(world_size()):  # each rank sees one device, as if on its own machine
        return {
            "devices": 1,
            "num_nodes": world_size(),
            "strategy": DDPStrategy(**options),
            "plugins": [WholeCheckpoints(), LightningEnvironment()],
        }
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    return {
        "devices": "auto",
        "strategy": RayDDPStrategy(**options),
        "plugins": [WholeCheckpoints(), RayLightningEnvironment()],
    }


def _checkpoints(directory, metric, config):
    """Callbacks that save; the best first, so that the last knows it."""
    last = SaveLast(directory / LAST, config.checkpoint_every_n_steps, config.checkpoint_every_minutes)
    if metric is None:
        return [last]
    place = {"dirpath": directory, "enable_version_counter": False}
    return [ModelCheckpoint(filename="best", monitor=metric, mode="min", **place), last]
