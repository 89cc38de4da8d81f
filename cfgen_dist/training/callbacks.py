"""Speed and waiting while training: columns of the metrics, and a line now and then where there is no terminal."""

import logging
import time

from lightning.pytorch.callbacks import Callback

log = logging.getLogger("cfgen_dist")
SECONDS_BETWEEN_LINES = 10


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
