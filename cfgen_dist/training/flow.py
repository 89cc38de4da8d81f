"""Stage 3: fit the velocity network to the latents, which were encoded once."""

import math

import lightning as L
import numpy as np
import torch

from cfgen_dist.model.build import build_velocity
from cfgen_dist.model.flow_matching import drop_attributes, flow_matching_loss
from cfgen_dist.training.callbacks import average_weights
from cfgen_dist.training.metrics import mean_over_ranks
from cfgen_dist.training.modalities import complete
from cfgen_dist.training.stream import TrainingStream, held_out_stream
from cfgen_dist.training.trainer import fit

WARM_UP = 100  # optimiser steps
VALIDATIONS = 20  # per training


class FlowTask(L.LightningModule):
    """The velocity network with its loss and optimiser.

    Parameters
    ----------
    velocity : Velocity
    labels : sequence of str
        Attributes, in the network's order.
    config : FlowConfig
    """

    def __init__(self, velocity, labels, config):
        super().__init__()
        self.velocity, self.labels, self.config = velocity, list(labels), config
        self.held_out = mean_over_ranks()

    def _inputs(self, batch):
        z1 = self.velocity.standardise(batch.latent)
        codes = (
            torch.stack([batch.labels[name] for name in self.labels], dim=1)
            if self.labels
            else z1.new_zeros(len(z1), 0).long()
        )
        return z1, codes, batch.size_factor.clamp_min(1.0).log()

    def training_step(self, batch):
        """Flow-matching loss with attributes dropped per cell."""
        z1, codes, log_size_factor = self._inputs(batch)
        codes = drop_attributes(codes, self.config.p_cond, self.config.conditioning == "joint")
        loss = flow_matching_loss(self.velocity, z1, codes, log_size_factor)
        self.log("train_loss", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch, batch_idx):
        """Log the loss of held-out cells, with the same noise, times and dropped attributes at every validation.

        Each rank draws its own, so the loss differs between numbers of ranks by the noise of that draw.
        """
        z1, codes, log_size_factor = self._inputs(batch)
        generator = torch.Generator(self.device).manual_seed(batch_idx * self.trainer.world_size + self.global_rank)
        codes = drop_attributes(codes, self.config.p_cond, self.config.conditioning == "joint", generator)
        loss = flow_matching_loss(self.velocity, z1, codes, log_size_factor, generator)
        self.held_out.update(loss, weight=len(batch))
        self.log("val_loss", self.held_out, batch_size=len(batch), prog_bar=True)

    def networks(self):
        """What torch.compile is worth its while for."""
        return [self.velocity]

    def configure_optimizers(self):
        """AdamW with a short warm-up and a cosine to zero; the steps come from the config, never from the loader."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        total, warm_up = self.config.max_steps, min(WARM_UP, self.config.max_steps // 10)

        def factor(step):
            if step < warm_up:
                return (step + 1) / (warm_up + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_flow(latents, labels, config, directory, callbacks=()):
    """Fit the flow on encoded cells.

    Parameters
    ----------
    latents : Atlas
        The store of latents that `cfgen_dist.training.encode.encode` writes.
    labels : dict of str to list of str
        Attributes and their categories.
    config : Config
    directory : Path
        For checkpoints and metrics; training goes on from `last.ckpt` if it is there.
    callbacks : sequence of Callback
        Further callbacks, called before the weights' averages are swapped out after validation.

    Returns
    -------
    Velocity
        In eval mode, with the averaged weights.
    """
    stage = config.flow
    torch.manual_seed(config.seed)
    velocity = build_velocity(config, [len(c) for c in labels.values()], size_factor_range(latents, config))
    mean, std = _moments(latents, config)
    velocity.latent_mean.copy_(torch.from_numpy(mean))
    velocity.latent_std.copy_(torch.from_numpy(std))
    task = FlowTask(velocity, labels, stage)
    shown = {"labels": list(labels)}
    train = TrainingStream(latents, stage.batch_size, rows=fitted_rows(latents, config), seed=config.seed, **shown)
    # Refitted on all cells there are none left to validate on.
    held_out = complete(latents, config, latents.rows(split="val"))
    val = None if config.refit else held_out_stream(latents, stage.batch_size, rows=held_out, **shown)
    averaging = [average_weights(stage.ema)] if stage.ema else []
    fit(
        task,
        train,
        val,
        directory=directory,
        stage="flow",
        metric="train_loss" if val is None else "val_loss",
        config=config,
        callbacks=[*callbacks, *averaging],
        max_steps=stage.max_steps,
        max_epochs=-1,
        gradient_clip_val=stage.grad_clip,
        **({} if val is None else {"val_check_interval": max(1, stage.max_steps // VALIDATIONS)}),
        check_val_every_n_epoch=None,
    )
    return task.velocity.eval().cpu()


def size_factor_range(latents, config):
    """Smallest and largest log size factor of the cells it is fitted to."""
    log_size_factor = np.log(np.maximum(latents.size_factor[fitted_rows(latents, config)], 1.0))
    return float(log_size_factor.min()), float(log_size_factor.max())


def _moments(latents, config, slice_rows=1 << 16):
    """Mean and standard deviation (D,) of the latents it is fitted to, a slice of them in memory at a time."""
    rows = fitted_rows(latents, config)
    total = squares = 0.0
    for start in range(0, len(rows), slice_rows):
        z = latents.read(rows[start : start + slice_rows], modality="latent").values.astype(np.float64)
        total, squares = total + z.sum(axis=0), squares + (z**2).sum(axis=0)
    mean = total / len(rows)
    return mean, np.sqrt(np.maximum(squares / len(rows) - mean**2, 1e-8))


def fitted_rows(atlas, config):
    """Rows that the final model learns from: complete training cells, with `config.refit` validation cells too."""
    rows = atlas.rows(split="train")
    return complete(atlas, config, np.union1d(rows, atlas.rows(split="val")) if config.refit else rows)
