"""The settings that all stages of a training share: seed, device, precision, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cfgen_dist.config import Config


@dataclass(frozen=True)
class RunSettings:
    """The keys at the top of a config that say how to train, whatever the stage; see `cfgen_dist.config.Config`."""

    seed: int = 0
    refit: bool = True
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    all_reduce: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every_n_steps: int = 500
    checkpoint_every_minutes: float | None = None

    @classmethod
    def of(cls, config: Config) -> RunSettings:
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
        )
