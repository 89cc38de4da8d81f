"""Exponential moving average of the weights: what is validated, kept and shipped."""

from lightning.pytorch.callbacks import WeightAveraging


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
