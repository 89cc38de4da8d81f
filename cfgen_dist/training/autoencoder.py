"""Stage 1: fit the autoencoder to streamed counts, stopping early on the held-out likelihood."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping

from cfgen_dist.model.build import build_autoencoder
from cfgen_dist.model.multimodal import branches
from cfgen_dist.training.callbacks import average_weights
from cfgen_dist.training.checkpoints import best_state
from cfgen_dist.training.metrics import mean_over_ranks
from cfgen_dist.training.modalities import model_features
from cfgen_dist.training.stream import TrainingStream, held_out_stream
from cfgen_dist.training.trainer import fit


class AutoencoderTask(L.LightningModule):
    """The autoencoder with its loss and optimiser.

    Parameters
    ----------
    autoencoder : Autoencoder
    config : AutoencoderConfig
    n_cells : int
        Training cells.
    """

    def __init__(self, autoencoder, config, n_cells):
        super().__init__()
        self.autoencoder, self.config, self.n_cells = autoencoder, config, n_cells
        self.held_out = mean_over_ranks()

    def _loss(self, batch):
        category = batch.labels[self.config.theta_covariate] if self.config.theta_covariate else None
        return self.autoencoder(self.autoencoder.dense(batch.counts, self.device), batch.size_factor, category)

    def training_step(self, batch):
        """Negative log-likelihood of a batch, nats per cell, and the penalty's share of one cell."""
        nll = self._loss(batch)
        self.log("train_nll", nll, batch_size=len(batch))
        return nll + self.config.gene_penalty / self.n_cells * self.autoencoder.gene_penalty()

    def validation_step(self, batch):
        """Log the held-out negative log-likelihood."""
        self.held_out.update(self._loss(batch), weight=len(batch))
        self.log("val_nll", self.held_out, batch_size=len(batch), prog_bar=True)

    def networks(self):
        """What torch.compile is worth its while for."""
        return [self.autoencoder]

    def configure_optimizers(self):
        """AdamW; weight decay on matrices alone, and theta with its own learning rate."""
        network = [p for name, p in self.named_parameters() if not name.endswith("log_theta")]
        theta = [p for name, p in self.named_parameters() if name.endswith("log_theta")]
        decay = self.config.weight_decay
        groups = [
            {"params": [p for p in network if p.dim() > 1], "lr": self.config.lr, "weight_decay": decay},
            {"params": [p for p in network if p.dim() <= 1], "lr": self.config.lr, "weight_decay": 0.0},
            {"params": theta, "lr": self.config.theta_lr, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        """Clip the network's gradient; theta's, of another scale, stays out of the norm."""
        network = [p for name, p in self.named_parameters() if not name.endswith("log_theta")]
        torch.nn.utils.clip_grad_norm_(network, self.config.grad_clip)


def train_autoencoder(atlas, config, directory, callbacks=()):
    """Fit the autoencoder on the atlas's training cells.

    Parameters
    ----------
    atlas : Atlas
    config : Config
    directory : Path
        For checkpoints and metrics; training goes on from `last.ckpt` if it is there.
    callbacks : sequence of Callback
        Further callbacks of the first training, called before the weights' averages are swapped out after validation.

    Returns
    -------
    Autoencoder
        In eval mode: the weights of the best held-out likelihood, or with `config.refit` those of a second training, as
        many epochs long, on training and validation cells.
    """
    cells = {split: atlas.rows(split=split) for split in ("train", "val")}
    task = _task(atlas, config, len(cells["train"]))
    fit(
        task,
        _stream(atlas, config, cells["train"]),
        held_out_stream(atlas, config.autoencoder.batch_size, rows=cells["val"], labels=_stream_labels(config)),
        directory=directory,
        stage="autoencoder",
        metric="val_nll",
        config=config,
        callbacks=[*callbacks, *_averaging(config), EarlyStopping("val_nll", patience=config.autoencoder.patience)],
        max_epochs=config.autoencoder.max_epochs,
    )
    state, epoch = best_state(directory)
    if config.refit:
        both = np.union1d(cells["train"], cells["val"])
        task = _task(atlas, config, len(both))
        fit(
            task,
            _stream(atlas, config, both),
            None,
            directory=directory / "refit",
            stage="autoencoder, refit",
            metric="train_nll",
            config=config,
            callbacks=_averaging(config),
            max_epochs=epoch + 1,
        )
    else:
        task.load_state_dict(state)
    _fill_unseen_dispersions(task.autoencoder, atlas, config)
    return task.autoencoder.eval().cpu()


def _fill_unseen_dispersions(autoencoder, atlas, config):
    """Give categories without training cells the mean log theta of the others, in place of the start value."""
    covariate = config.autoencoder.theta_covariate
    if covariate is None:
        return
    seen = np.unique(atlas.codes(covariate)[atlas.rows(split="train")])
    unseen = np.setdiff1d(np.arange(len(atlas.categories(covariate))), seen)
    with torch.no_grad():
        for branch in branches(autoencoder).values():
            if branch.likelihood == "nb":
                branch.log_theta[unseen] = branch.log_theta[seen].mean(dim=0)


def _task(atlas, config, n_cells):
    torch.manual_seed(config.seed)
    features = model_features(atlas, config)
    labels = {name: atlas.categories(name) for name in config.labels}
    autoencoder = build_autoencoder(config, {name: len(table) for name, table in features.items()}, labels)
    means = {name: torch.as_tensor(table["mean"].to_numpy(), dtype=torch.float32) for name, table in features.items()}
    autoencoder.start_at(means if len(means) > 1 else means["rna"], n_cells)
    return AutoencoderTask(autoencoder, config.autoencoder, n_cells)


def _stream(atlas, config, rows):
    return TrainingStream(
        atlas, config.autoencoder.batch_size, rows=rows, labels=_stream_labels(config), seed=config.seed
    )


def _stream_labels(config):
    return [name for name in [config.autoencoder.theta_covariate] if name]


def _averaging(config):
    return [average_weights(config.autoencoder.ema)] if config.autoencoder.ema else []
