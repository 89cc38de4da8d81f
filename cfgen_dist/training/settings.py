"""The settings that all stages of a training share: seed, device, precision, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cfgen_dist.config import Config
    from cfgen_dist.config.tree import Precision
    from cfgen_dist.training.saves import Saver


@dataclass(frozen=True)
class RunSettings:
    """The keys at the top of a config that say how to train, whatever the stage; see `cfgen_dist.config.Config`."""

    seed: int = 0
    refit: bool = True
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Precision = "32-true"
    compile: bool = False
    all_reduce: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every_n_steps: int = 500
    checkpoint_every_minutes: float | None = None
    saver: Saver | None = None  # of a run in a bucket

    @property
    def half_products(self) -> bool:
        """Whether the products of the autoencoder's first and last layer are of bfloat16 numbers on a CPU."""
        return self.precision in ("bf16-products", "bf16-mixed")

    @property
    def autocast(self) -> Literal["32-true", "bf16-mixed"]:
        """What Lightning is told of the precision."""
        return "bf16-mixed" if self.precision == "bf16-mixed" else "32-true"

    @classmethod
    def of(cls, config: Config, saver: Saver | None = None) -> RunSettings:
        """Those of a config."""
        return cls(
            seed=config.seed,
            refit=config.refit,
            accelerator=config.accelerator,
            precision=config.precision,
            compile=config.compile,
            all_reduce=config.all_reduce,
            checkpoint_every_n_steps=config.checkpoint_every_n_steps,
            checkpoint_every_minutes=config.checkpoint_every_minutes,
            saver=saver,
        )
