"""What watches and steers a training step by step: speed, seeds, checkpoints to resume from, averaged weights."""

import logging
import time

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

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

    def __init__(self, stage, metric, stream, every, aloud):
        self.stage, self.metric, self.stream, self.every, self.aloud = stage, metric, stream, every, aloud
        self.cells, self.paused = 0, 0.0

    def on_train_start(self, trainer, module):
        """Start the clocks."""
        self.logged = self.spoken = self._now()

    def on_validation_start(self, trainer, module):
        """Stop the clocks."""
        self.validation = time.monotonic()

    def on_validation_end(self, trainer, module):
        """Let the clocks go on."""
        self.paused += time.monotonic() - self.validation

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
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

    def _now(self):
        return time.monotonic() - self.paused, self.cells, self.stream.waited

    def _since(self, then):
        """Cells a second and the share of waiting since a moment."""
        seconds, cells, waited = (new - old for new, old in zip(self._now(), then, strict=True))
        return cells / seconds, waited / seconds


class SeedEveryStep(Callback):
    """Seed torch from (seed, stage, step, rank) before every training step.

    A step's random draws are then a function of where it stands, so a run that was interrupted and resumed draws what
    the uninterrupted run draws.
    """

    def __init__(self, seed, stage):
        self.seed, self.stage = seed, STAGES[stage]

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        """Seed this step."""
        torch.manual_seed(derived_seed(self.seed, self.stage, trainer.global_step, trainer.global_rank))


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


def average_weights(decay):
    """Lightning's weight averaging with a decay that ramps up, min(decay, (1 + n) / (10 + n)) at the n-th average.

    Without the ramp a short training would ship mostly its random start.
    """

    def update(averaged, current, n):
        rate = 1 - min(decay, (1 + float(n)) / (10 + float(n)))
        for mean, value in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, rate)
            else:  # counters of BatchNorm
                mean.copy_(value)

    return _AveragingOnDevice(multi_avg_fn=update)


class _AveragingOnDevice(WeightAveraging):
    """Keeps the average where the model trains; Lightning would keep it on the CPU and copy every step there."""

    def setup(self, trainer, pl_module, stage):
        """Make the averaged model."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
