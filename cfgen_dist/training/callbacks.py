"""What watches and steers a training step by step: speed, seeds, checkpoints to resume from, averaged weights."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from cfgen_dist.training.checkpoints import save_last
from cfgen_dist.training.stopping import Agreement, Stopped, begin_steps, count_step
from cfgen_dist.training.stream import TrainingStream
from data_loaders import CellBatch
from data_loaders.seeds import Training, derived_seed

log = logging.getLogger("cfgen_dist")
SECONDS_BETWEEN_LINES = 10
STAGES = {"autoencoder": Training.AUTOENCODER, "autoencoder, refit": Training.REFIT, "flow": Training.FLOW}
LOG_EVERY = 10  # steps


class Monitor(Callback):
    """Logs `cells_per_second`, over all ranks, and `loader_wait`, the share of the time spent waiting for batches.

    Time in validation does not count.

    Parameters
    ----------
    stage, metric : str
        For the lines.
    stream : TrainingStream
        Knows how long the training step has waited for it.
    every : int
        Steps between entries of the metrics.
    aloud : bool
        Whether to write lines to the logger "cfgen_dist" too.
    """

    def __init__(self, stage: str, metric: str, stream: TrainingStream, every: int, aloud: bool) -> None:
        self.stage, self.metric, self.stream, self.every, self.aloud = stage, metric, stream, every, aloud
        self.cells, self.paused = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clocks."""
        self.logged = self.spoken = self._now()

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clocks."""
        self.validation = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Let the clocks go on."""
        self.paused += time.monotonic() - self.validation

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: CellBatch, batch_idx: int
    ) -> None:
        """Count the cells; log and speak when it is time."""
        self.cells += len(batch) * trainer.world_size
        if trainer.global_step % self.every == 0:
            speed, wait = self._since(self.logged)
            module.log("cells_per_second", speed, prog_bar=True)
            module.log("loader_wait", wait, prog_bar=True)
            self.logged = self._now()
        if self.aloud and self._now()[0] - self.spoken[0] >= SECONDS_BETWEEN_LINES:
            speed, wait = self._since(self.spoken)
            value = trainer.callback_metrics.get(self.metric)
            told = "" if value is None else f", {self.metric} {value:.4f}"
            log.info(
                f"{self.stage}: epoch {trainer.current_epoch}, step {trainer.global_step:,}{told}, "
                f"{speed:,.0f} cells/s, {wait:.1%} of the time waiting for cells"
            )
            self.spoken = self._now()

    def _now(self) -> tuple[float, int, float]:
        return time.monotonic() - self.paused, self.cells, self.stream.waited

    def _since(self, then: tuple[float, int, float]) -> tuple[float, float]:
        """Cells a second and the share of waiting since a moment."""
        seconds, cells, waited = (new - old for new, old in zip(self._now(), then, strict=True))
        return cells / seconds, waited / seconds


class SeedEveryStep(Callback):
    """Seed torch from (seed, stage, step, rank) before every training step.

    A step's random draws are then a function of where it stands, so a run that was interrupted and resumed draws what
    the uninterrupted run draws.
    """

    def __init__(self, seed: int, stage: str) -> None:
        self.seed, self.stage = seed, STAGES[stage]

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: CellBatch, batch_idx: int
    ) -> None:
        """Seed this step."""
        torch.manual_seed(derived_seed(self.seed, self.stage, trainer.global_step, trainer.global_rank))


class SaveLast(Checkpoint):
    """Save the checkpoint to resume from every so many steps and, if asked to, minutes.

    What is due at the last step of an epoch waits until the epoch has been validated. Lightning takes an epoch saved in
    between for finished: a run resumed from there would not validate it, so it could not become the best, and early
    stopping would not count it.

    Whoever asks the training to stop (`cfgen_dist.training.stopping`) gets a checkpoint in the same way, and then
    `Stopped` is raised on all ranks.

    Parameters
    ----------
    path : Path
    stage : str
        For messages.
    steps : int
    minutes : float or None
    """

    def __init__(self, path: Path, stage: str, steps: int, minutes: float | None) -> None:
        self.path, self.stage, self.steps, self.minutes, self.due = path, stage, steps, minutes, False
        self.agreement, self.stop = Agreement(), False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start the clock."""
        self.saved = time.monotonic()
        begin_steps(self.stage, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: CellBatch, batch_idx: int
    ) -> None:
        """Save, or wait for the end of the epoch."""
        count_step(trainer.global_step)
        self.stop = self.agreement.reached(trainer.global_step, trainer.strategy.root_device)
        self.due = self.stop or trainer.global_step % self.steps == 0
        if self.minutes and trainer.global_step % LOG_EVERY == 0:  # the ranks' agreement takes its time
            self.due |= trainer.strategy.broadcast(time.monotonic() - self.saved >= 60 * self.minutes)
        if not (trainer.is_last_batch and trainer.check_val_every_n_epoch):
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save what has waited; a training that ends here has no use for it."""
        if not trainer.should_stop:
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        if self.due:
            save_last(trainer, self.path, wait=self.stop)
            self.due, self.saved = False, time.monotonic()
            count_step(trainer.global_step, saved=True)
        if self.stop and trainer.global_step != trainer.max_steps:  # else nothing is left to do
            raise Stopped(f"step {trainer.global_step:,} of the {self.stage}")


class HalfGradients(Callback):
    """Ranks exchange gradients as bfloat16: half the traffic. Lightning's own option does so on GPUs only."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Tell the wrapped module."""
        cast(DistributedDataParallel, trainer.model).register_comm_hook(None, bf16_compress_hook)


def average_weights(decay: float) -> WeightAveraging:
    """Lightning's weight averaging with a decay that ramps up, min(decay, (1 + n) / (10 + n)) at the n-th average.

    Without the ramp a short training would ship mostly its random start.
    """

    def update(averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], n: torch.Tensor | int) -> None:
        rate = 1 - min(decay, (1 + float(n)) / (10 + float(n)))
        if averaged[0].is_floating_point():  # torch calls with tensors of one type
            torch._foreach_lerp_(list(averaged), list(current), rate)
        else:  # counters of BatchNorm
            torch._foreach_copy_(list(averaged), list(current))

    return _AveragingOnDevice(multi_avg_fn=update)


class _AveragingOnDevice(WeightAveraging):
    """Keeps the average where the model trains; Lightning would keep it on the CPU and copy every step there."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the averaged model."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
