"""What both training stages share: `fit`, which sets Lightning's trainer up and lets it run."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy

from cfgen_dist.training.batch_norm import over_all_ranks
from cfgen_dist.training.callbacks import LOG_EVERY, HalfGradients, Monitor, SaveLast, SeedEveryStep
from cfgen_dist.training.checkpoints import LAST, Restored, WholeCheckpoints, check_fits, place_of, taking_up
from cfgen_dist.training.metrics import open_loggers
from cfgen_dist.training.ranks import on_main, rank, world_size
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.stopping import end_steps, interrupted
from cfgen_dist.training.stream import TrainingStream
from data_loaders import CellBatch

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


def fit(
    module: L.LightningModule,
    train_stream: TrainingStream,
    val_stream: Iterable[CellBatch] | None,
    *,
    directory: Path,
    stage: str,
    metric: str,
    settings: RunSettings,
    callbacks: Sequence[Callback] = (),
    **limits: Any,
) -> L.Trainer:
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
    settings : RunSettings
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
    place = on_main(lambda: place_of(last) if last.exists() else None)
    restored = Restored(last, place["schedulers"]) if place else Restored()
    if place:  # Lightning itself takes a position up only in the middle of an epoch
        on_main(lambda: check_fits(last, module))
        train_stream.load_state_dict(place["position"])
    terminal = sys.stderr.isatty()
    if world_size() > 1:
        over_all_ranks(module)
        callbacks = [*callbacks, HalfGradients()] if settings.all_reduce == "bfloat16" else callbacks
    if settings.compile:
        for network in module.networks():  # type: ignore[operator]
            network.compile(dynamic=True)  # batches differ by a cell
    with warnings.catch_warnings():
        for message in NO_WARNING:
            warnings.filterwarnings("ignore", f".*{message}.*")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        trainer = L.Trainer(
            default_root_dir=directory,
            accelerator=settings.accelerator,
            precision=settings.autocast,
            logger=False if rank() else open_loggers(directory, place["step"] if place else None, LOG_EVERY),
            callbacks=[
                *_checkpoints(directory, stage, metric if val_stream is not None else None, settings),
                *callbacks,
                SeedEveryStep(settings.seed, stage),
                restored,
                Monitor(stage, metric, train_stream, LOG_EVERY, aloud=not terminal and not rank()),
                *([RichProgressBar()] if terminal else []),
            ],
            enable_progress_bar=terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=LOG_EVERY,
            **_placement(settings),
            **limits,
        )
        try:
            with taking_up(last if place else None, restored):
                trainer.fit(module, train_stream, val_stream, ckpt_path=last if place else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise interrupted() from None
        end_steps()
        if place and not restored.done:  # all steps were done before: Lightning has called nobody
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):
                    callback.on_train_end(trainer, module)
    if settings.saver is not None and not rank():  # what the next stage begins with
        settings.saver.take(directory, trainer.global_step)
    return trainer


def _placement(settings: RunSettings) -> dict[str, Any]:
    """Arguments of the trainer that say on how many devices of which machines it runs."""
    if world_size() == 1:
        return {"devices": 1, "plugins": [WholeCheckpoints(settings.saver)]}
    # No buffer differs between ranks: BatchNorm sees all of them.
    options: dict[str, Any] = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    if os.environ.get("GROUP_WORLD_SIZE") == str(world_size()):  # each rank sees one device, as if on its own machine
        return {
            "devices": 1,
            "num_nodes": world_size(),
            "strategy": DDPStrategy(**options),
            "plugins": [WholeCheckpoints(settings.saver), LightningEnvironment()],
        }
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    return {
        "devices": "auto",
        "strategy": RayDDPStrategy(**options),
        "plugins": [WholeCheckpoints(settings.saver), RayLightningEnvironment()],
    }


def _checkpoints(directory: Path, stage: str, metric: str | None, settings: RunSettings) -> list[Callback]:
    """Callbacks that save; the best first, so that the last knows it."""
    last = SaveLast(directory / LAST, stage, settings.checkpoint_every_n_steps, settings.checkpoint_every_minutes)
    if metric is None:
        return [last]
    place: dict[str, Any] = {"dirpath": directory, "enable_version_counter": False}
    return [ModelCheckpoint(filename="best", monitor=metric, mode="min", **place), last]
