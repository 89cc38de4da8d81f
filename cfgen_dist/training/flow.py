"""Stage 3: fit the velocity network to the latents, which were encoded once."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from cfgen_dist.config import FlowConfig, ModalitiesConfig
from cfgen_dist.model.build import build_velocity
from cfgen_dist.model.flow_matching import drop_attributes, flow_matching_loss
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.training.callbacks import average_weights
from cfgen_dist.training.metrics import mean_over_ranks
from cfgen_dist.training.modalities import complete, fitted_rows
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.stream import TrainingStream, held_out_stream
from cfgen_dist.training.trainer import fit
from data_loaders import Atlas, CellBatch
from data_loaders.reading.rows import DenseRows
from data_loaders.types import Floats, Ints

WARM_UP = 100  # optimiser steps
VALIDATIONS = 20  # per training
EPOCHS, STEPS = 30, (2000, 100_000)  # when the config leaves the steps open


class FlowTask(L.LightningModule):
    """The velocity network with its loss and optimiser.

    Parameters
    ----------
    velocity : Velocity
    labels : sequence of str
        Attributes, in the network's order.
    config : FlowConfig
        Settled: `max_steps` is a number.
    """

    def __init__(self, velocity: Velocity, labels: Sequence[str], config: FlowConfig) -> None:
        super().__init__()
        if config.max_steps is None:
            raise ValueError("flow.max_steps is None; `cfgen_dist.training.settle.settle` fills it in")
        self.n_steps = config.max_steps
        self.velocity, self.labels, self.config = velocity, list(labels), config
        self.held_out = mean_over_ranks()

    def _inputs(self, batch: CellBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z1 = self.velocity.standardise(batch.latent)
        codes = (
            torch.stack([batch.labels[name] for name in self.labels], dim=1)
            if self.labels
            else z1.new_zeros(len(z1), 0).long()
        )
        return z1, codes, batch.size_factor.clamp_min(1.0).log()

    def loss(self, batch: CellBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Flow-matching loss with attributes dropped per cell; `generator` draws noise, times and what is dropped."""
        z1, codes, log_size_factor = self._inputs(batch)
        codes = drop_attributes(codes, self.config.p_cond, self.config.conditioning == "joint", generator)
        return flow_matching_loss(self.velocity, z1, codes, log_size_factor, generator)

    def training_step(self, batch: CellBatch) -> torch.Tensor:
        """Log the loss."""
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Log the loss of held-out cells, with the same noise, times and dropped attributes at every validation.

        Each rank draws its own, so the loss differs between numbers of ranks by the noise of that draw.
        """
        generator = torch.Generator(self.device).manual_seed(batch_idx * self.trainer.world_size + self.global_rank)
        self.held_out.update(self.loss(batch, generator), weight=len(batch))
        self.log("val_loss", self.held_out, batch_size=len(batch), prog_bar=True)

    def networks(self) -> list[torch.nn.Module]:
        """The networks for which torch.compile pays."""
        return [self.velocity]

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine to zero; the steps come from the config, never from the loader."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )
        total, warm_up = self.n_steps, min(WARM_UP, self.n_steps // 10)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / (warm_up + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient; Lightning's own way refuses a fused optimiser beside bf16-mixed."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.grad_clip)


def flow_steps(n_cells: int | Fraction, batch_size: int) -> int:
    """How many steps a flow is trained for when the config leaves it open, on so many fitted cells.

    30 epochs, but at least 2,000 steps and at most 100,000.
    """
    return int(np.clip(int(EPOCHS * n_cells // batch_size), *STEPS))


def train_flow(
    latents: Atlas,
    labels: Mapping[str, Sequence[str]],
    config: FlowConfig,
    modalities: ModalitiesConfig,
    settings: RunSettings,
    directory: Path,
    callbacks: Sequence[Callback] = (),
) -> Velocity:
    """Fit the flow on encoded cells.

    Parameters
    ----------
    latents : Atlas
        The store of latents that `cfgen_dist.training.encode.encode` writes.
    labels : dict of str to list of str
        Attributes and their categories.
    config : FlowConfig
        Settled: `max_steps` is a number.
    modalities : ModalitiesConfig
        Settled: the flow learns from cells that have them all.
    settings : RunSettings
    directory : Path
        For checkpoints and metrics; training goes on from `last.ckpt` if it is there.
    callbacks : sequence of Callback
        Further callbacks, called before the weights' averages are swapped out after validation.

    Returns
    -------
    Velocity
        In eval mode, with the averaged weights.
    """
    torch.manual_seed(settings.seed)
    rows = fitted_rows(latents, modalities, settings.refit)
    velocity = untrained_velocity(latents, labels, config, rows)
    mean, std = _moments(latents, rows)
    velocity.latent_mean.copy_(torch.from_numpy(mean))
    velocity.latent_std.copy_(torch.from_numpy(std))
    task = FlowTask(velocity, list(labels), config)
    shown = list(labels)
    train = TrainingStream(latents, config.batch_size, rows=rows, labels=shown, seed=settings.seed)
    val, limits = None, {}
    if not settings.refit:  # refitted on all cells there are none left to validate on
        held_out = complete(latents, modalities, latents.rows(split="val"))
        val = held_out_stream(latents, config.batch_size, rows=held_out, labels=shown)
        limits = {"val_check_interval": max(1, task.n_steps // VALIDATIONS)}
    fit(
        task,
        train,
        val,
        directory=directory,
        stage="flow",
        metric="train_loss" if val is None else "val_loss",
        settings=settings,
        callbacks=[*callbacks, *([average_weights(config.ema)] if config.ema else [])],
        max_steps=task.n_steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        **limits,
    )
    return task.velocity.eval().cpu()


def untrained_velocity(latents: Atlas, labels: Mapping[str, Sequence[str]], config: FlowConfig, rows: Ints) -> Velocity:
    """A network that fits a store of latents, for training on its `rows` or for weights of another one."""
    n_categories = [len(categories) for categories in labels.values()]
    return build_velocity(config, len(latents.var), n_categories, _size_factor_range(latents, rows))


def _size_factor_range(latents: Atlas, rows: Ints) -> tuple[float, float]:
    """Smallest and largest log size factor of cells."""
    log_size_factor = np.log(np.maximum(latents.size_factor[rows], 1.0))
    return float(log_size_factor.min()), float(log_size_factor.max())


def _moments(latents: Atlas, rows: Ints, slice_rows: int = 1 << 16) -> tuple[Floats, Floats]:
    """Mean and standard deviation (D,) of the latents of cells, a slice of them in memory at a time."""
    total: Floats = np.zeros(len(latents.var))
    squares: Floats = np.zeros(len(latents.var))
    for start in range(0, len(rows), slice_rows):
        read = cast(DenseRows, latents.read(rows[start : start + slice_rows], modality="latent"))
        z = np.asarray(read.values, dtype=np.float64)
        total, squares = total + z.sum(axis=0), squares + (z**2).sum(axis=0)
    mean = total / len(rows)
    return mean, np.sqrt(np.maximum(squares / len(rows) - mean**2, 1e-8))
