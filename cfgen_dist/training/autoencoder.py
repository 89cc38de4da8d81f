"""Stage 1: fit the autoencoder to streamed counts, stopping early on the held-out likelihood."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from cfgen_dist.config import AutoencoderConfig, ModalitiesConfig
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.build import build_autoencoder
from cfgen_dist.model.multimodal import JointAutoencoder, branches
from cfgen_dist.training.callbacks import average_weights
from cfgen_dist.training.checkpoints import LAST, best_state, whole
from cfgen_dist.training.metrics import mean_over_ranks
from cfgen_dist.training.modalities import MAIN, model_features
from cfgen_dist.training.ranks import on_main
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.stream import TrainingStream, held_out_stream
from cfgen_dist.training.trainer import fit
from data_loaders import Atlas, CellBatch
from data_loaders.reading.rows import SparseRows
from data_loaders.types import Ints


class AutoencoderTask(L.LightningModule):
    """The autoencoder with its loss and optimiser.

    Parameters
    ----------
    autoencoder : Autoencoder or JointAutoencoder
    config : AutoencoderConfig
    n_cells : int
        Training cells.
    half_products : bool
        On a CPU, multiply in the first and the last layer with bfloat16 numbers.
    compiled : bool
        Whether the network will be compiled, so that its `forward` must be called.
    """

    def __init__(
        self,
        autoencoder: Autoencoder | JointAutoencoder,
        config: AutoencoderConfig,
        n_cells: int,
        half_products: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.autoencoder, self.config, self.n_cells = autoencoder, config, n_cells
        self.half_products, self.compiled = half_products, compiled
        self.held_out = mean_over_ranks()

    def training_step(self, batch: CellBatch) -> torch.Tensor:
        """Negative log-likelihood of a batch, nats per cell, and the penalty's share of one cell."""
        nll = autoencoder_loss(self, batch)
        self.log("train_nll", nll, batch_size=len(batch))
        return nll + self.config.gene_penalty / self.n_cells * self.autoencoder.gene_penalty()

    def validation_step(self, batch: CellBatch) -> None:
        """Log the held-out negative log-likelihood."""
        self.held_out.update(autoencoder_loss(self, batch), weight=len(batch))
        self.log("val_nll", self.held_out, batch_size=len(batch), prog_bar=True)

    def networks(self) -> list[torch.nn.Module]:
        """The networks for which torch.compile pays."""
        return [self.autoencoder]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; weight decay on matrices alone, and theta with its own learning rate."""
        network = [p for name, p in self.named_parameters() if not name.endswith("log_theta")]
        theta = [p for name, p in self.named_parameters() if name.endswith("log_theta")]
        decay = self.config.weight_decay
        groups = [
            {"params": [p for p in network if p.dim() > 1], "lr": self.config.lr, "weight_decay": decay},
            {"params": [p for p in network if p.dim() <= 1], "lr": self.config.lr, "weight_decay": 0.0},
            {"params": theta, "lr": self.config.theta_lr, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, fused=True)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the network's gradient; theta's, of another scale, stays out of the norm."""
        network = [p for name, p in self.named_parameters() if not name.endswith("log_theta")]
        torch.nn.utils.clip_grad_norm_(network, self.config.grad_clip)


def autoencoder_loss(task: AutoencoderTask, batch: CellBatch) -> torch.Tensor:
    """Nats per cell of a batch: in one pass on CPUs, by operations of torch elsewhere."""
    network, covariate = task.autoencoder, task.config.theta_covariate
    category = batch.labels[covariate] if covariate else None
    if task.device.type == "cpu" and network.has_one_pass and not task.compiled:
        return network.one_pass(
            cast(Mapping[str, SparseRows], batch.counts), batch.size_factor, category, task.half_products
        )
    loss: torch.Tensor = network(network.dense(batch.counts, task.device), batch.size_factor, category)
    return loss


def train_autoencoder(
    atlas: Atlas,
    config: AutoencoderConfig,
    modalities: ModalitiesConfig,
    settings: RunSettings,
    directory: Path,
    callbacks: Sequence[Callback] = (),
) -> Autoencoder | JointAutoencoder:
    """Fit the autoencoder on the atlas's training cells.

    Parameters
    ----------
    atlas : Atlas
    config : AutoencoderConfig
    modalities : ModalitiesConfig
        Settled: a likelihood for every modality beside rna.
    settings : RunSettings
    directory : Path
        For checkpoints and metrics; training goes on from `last.ckpt` if it is there.
    callbacks : sequence of Callback
        Further callbacks of the first training, called before the weights' averages are swapped out after validation.

    Returns
    -------
    Autoencoder, or JointAutoencoder of several modalities
        In eval mode: the weights of the best held-out likelihood, or with `settings.refit` those of a second training,
        as many epochs long, on training and validation cells.
    """
    cells = {split: atlas.rows(split=split) for split in ("train", "val")}
    task = _task(atlas, config, modalities, settings, len(cells["train"]))
    refit = directory / "refit"
    if not (settings.refit and on_main((refit / LAST).exists)):  # else the first training is over
        fit(
            task,
            _stream(atlas, config, settings.seed, cells["train"]),
            held_out_stream(atlas, config.batch_size, rows=cells["val"], labels=_stream_labels(config)),
            directory=directory,
            stage="autoencoder",
            metric="val_nll",
            settings=settings,
            callbacks=[*callbacks, *_averaging(config), EarlyStopping("val_nll", patience=config.patience)],
            max_epochs=config.max_epochs,
        )
    state, epoch = best_state(directory)
    fitted = cells["train"]
    if settings.refit:
        fitted = np.union1d(fitted, cells["val"])
        task = _task(atlas, config, modalities, settings, len(fitted))
        fit(
            task,
            _stream(atlas, config, settings.seed, fitted),
            None,
            directory=refit,
            stage="autoencoder, refit",
            metric="train_nll",
            settings=settings,
            callbacks=_averaging(config),
            max_epochs=epoch + 1,
        )
    else:
        with whole(directory / "best.ckpt"):
            task.load_state_dict(state)
    if config.theta_covariate is not None:
        _fill_unseen_dispersions(task.autoencoder, atlas, config.theta_covariate, fitted)
    return task.autoencoder.eval().cpu()


def untrained_autoencoder(
    atlas: Atlas, config: AutoencoderConfig, modalities: ModalitiesConfig
) -> Autoencoder | JointAutoencoder:
    """A network that fits the atlas, for training or for weights of another one."""
    n_features = {name: len(table) for name, table in model_features(atlas, modalities).items()}
    n_dispersions = len(atlas.categories(config.theta_covariate)) if config.theta_covariate else 1
    return build_autoencoder(config, modalities, n_features, n_dispersions)


def _fill_unseen_dispersions(
    autoencoder: Autoencoder | JointAutoencoder, atlas: Atlas, covariate: str, rows: Ints
) -> None:
    """Give categories without cells among `rows`, those trained on, the mean log theta of the others.

    Of a modality the cells that have it count: the theta of a category of which no such cell was shown is still the
    start value.
    """
    codes = atlas.codes(covariate)
    with torch.no_grad():
        for name, branch in branches(autoencoder).items():
            if branch.likelihood.has_dispersion:
                shown = rows if name == MAIN else rows[np.asarray(atlas.obs(f"size_factor_{name}"))[rows] > 0]
                seen = np.unique(codes[shown])
                unseen = np.setdiff1d(np.arange(len(atlas.categories(covariate))), seen)
                branch.log_theta[unseen] = branch.log_theta[seen].mean(dim=0)


def _task(
    atlas: Atlas, config: AutoencoderConfig, modalities: ModalitiesConfig, settings: RunSettings, n_cells: int
) -> AutoencoderTask:
    torch.manual_seed(settings.seed)
    autoencoder = untrained_autoencoder(atlas, config, modalities)
    means = {
        name: torch.as_tensor(table["mean"].to_numpy(), dtype=torch.float32)
        for name, table in model_features(atlas, modalities).items()
    }
    if isinstance(autoencoder, JointAutoencoder):
        autoencoder.start_at(means, n_cells)
    else:
        autoencoder.start_at(means[MAIN], n_cells)
    return AutoencoderTask(autoencoder, config, n_cells, settings.half_products, settings.compile)


def _stream(atlas: Atlas, config: AutoencoderConfig, seed: int, rows: Ints) -> TrainingStream:
    return TrainingStream(atlas, config.batch_size, rows=rows, labels=_stream_labels(config), seed=seed)


def _stream_labels(config: AutoencoderConfig) -> list[str]:
    return [name for name in [config.theta_covariate] if name]


def _averaging(config: AutoencoderConfig) -> list[Callback]:
    return [average_weights(config.ema)] if config.ema else []
