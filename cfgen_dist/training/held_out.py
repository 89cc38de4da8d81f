"""How the networks that a run ships do on validation cells: measured on their final weights, once, at the end.

The values logged while training are of other weights: of the best epoch before the refit, or of a flow that was still
learning.
"""

from collections.abc import Callable

import numpy as np
import torch

from cfgen_dist.config import Config
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.calibration import Calibration
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.training.flow import FlowTask
from cfgen_dist.training.modalities import complete
from cfgen_dist.training.stream import IN_ORDER_BYTES
from data_loaders import Atlas, CellBatch, CellStream
from data_loaders.types import Ints

MOST_CELLS = 50_000  # of them, evenly over the atlas: what is enough for four digits


def validation_nll(
    autoencoder: Autoencoder | JointAutoencoder,
    atlas: Atlas,
    config: Config,
    device: str,
    calibration: Calibration | None = None,
) -> float:
    """Negative log-likelihood of validation cells, nats per cell.

    Parameters
    ----------
    autoencoder : Autoencoder or JointAutoencoder
        In eval mode; it is left on the CPU.
    atlas : Atlas
    config : Config
        Settled.
    device : str
        Where it runs.
    calibration : Calibration, optional
        What is added to the decoder's outputs.
    """
    covariate = config.autoencoder.theta_covariate
    offsets = Calibration() if calibration is None else calibration.to(device)

    def loss(batch: CellBatch, number: int) -> torch.Tensor:
        category = batch.labels[covariate] if covariate else None
        dense, shifts = autoencoder.dense(batch.counts, device), offsets.shifts(batch.labels)
        found: torch.Tensor = autoencoder(dense, batch.size_factor, category, shifts)
        return found

    autoencoder.to(device)
    labels = (config.labels or []) if calibration else [covariate] if covariate else []
    value = _mean(atlas, atlas.rows(split="val"), config.autoencoder.batch_size, labels, device, loss)
    autoencoder.cpu()
    return value


def validation_loss(velocity: Velocity, latents: Atlas, config: Config, device: str) -> float:
    """Flow-matching loss of validation cells, with noise, times and dropped attributes as in the training's own.

    Parameters
    ----------
    velocity : Velocity
        In eval mode; it is left on the CPU.
    latents : Atlas
    config : Config
        Settled.
    device : str
    """
    task = FlowTask(velocity, config.labels or [], config.flow).to(device)

    def loss(batch: CellBatch, number: int) -> torch.Tensor:
        return task.loss(batch, torch.Generator(device).manual_seed(number))

    rows = complete(latents, config.modalities, latents.rows(split="val"))
    value = _mean(latents, rows, config.flow.batch_size, config.labels or [], device, loss)
    velocity.cpu()
    return value


def _mean(
    cells: Atlas, rows: Ints, batch_size: int, labels: list[str], device: str, loss: Callable[..., torch.Tensor]
) -> float:
    """Mean over cells of `loss(batch, number of the batch)`, itself a mean over a batch."""
    if len(rows) > MOST_CELLS:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_CELLS).astype(np.int64)]
    stream = CellStream(
        cells, batch_size, rows=rows, labels=labels, unlabelled="keep", shuffle=False, buffer_bytes=IN_ORDER_BYTES
    )
    total = 0.0
    with torch.inference_mode():
        for number, batch in enumerate(stream):
            total += float(loss(batch.to(device), number)) * len(batch)
    return total / len(rows)
