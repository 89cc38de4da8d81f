"""Stage 1: fit the autoencoder to streamed counts, stopping early on the held-out likelihood."""

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping

from cfgen_dist.train.build import build_autoencoder
from cfgen_dist.train.trainer import best_state, fit
from data_loaders import CellStream


class AutoencoderTask(L.LightningModule):
    """The autoencoder with its loss and optimiser.

    Parameters
    ----------
    autoencoder : Autoencoder
    config : AutoencoderConfig
    """

    def __init__(self, autoencoder, config):
        super().__init__()
        self.autoencoder = autoencoder
        self.config = config

    def _loss(self, batch):
        category = batch.labels[self.config.theta_covariate] if self.config.theta_covariate else None
        return self.autoencoder.loss(batch.counts["rna"].to_dense(self.device), batch.size_factor, category)

    def training_step(self, batch):
        """Negative log-likelihood of a batch, nats per cell."""
        loss = self._loss(batch)
        self.log("train_nll", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch):
        """Log the held-out negative log-likelihood."""
        self.log("val_nll", self._loss(batch), batch_size=len(batch), on_epoch=True, prog_bar=True, sync_dist=True)

    def configure_optimizers(self):
        """AdamW; theta moves with its own learning rate and without decay."""
        network = [p for name, p in self.named_parameters() if not name.endswith("log_theta")]
        groups = [
            {"params": network, "lr": self.config.lr, "weight_decay": self.config.weight_decay},
            {"params": [self.autoencoder.log_theta], "lr": self.config.theta_lr, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups)


def train_autoencoder(atlas, config, directory):
    """Fit the autoencoder on the atlas's training cells.

    Parameters
    ----------
    atlas : Atlas
    config : Config
    directory : Path
        For checkpoints and metrics; training goes on from `last.ckpt` if it is there.

    Returns
    -------
    Autoencoder
        In eval mode, with the weights of the best held-out likelihood.
    """
    stage = config.autoencoder
    torch.manual_seed(config.seed)
    covariate = stage.theta_covariate
    autoencoder = build_autoencoder(stage, atlas.n_genes, len(atlas.categories(covariate)) if covariate else 1)
    autoencoder.start_at(torch.as_tensor(atlas.var["mean"].to_numpy(), dtype=torch.float32))
    task = AutoencoderTask(autoencoder, stage)
    labels = [covariate] if covariate else []
    train = CellStream(atlas, stage.batch_size, split="train", labels=labels, seed=config.seed)
    val = CellStream(atlas, stage.batch_size, split="val", labels=labels, shuffle=False)
    fit(
        task,
        train,
        val,
        directory=directory,
        stage="autoencoder",
        metric="val_nll",
        config=config,
        callbacks=[EarlyStopping("val_nll", patience=stage.patience)],
        max_epochs=stage.max_epochs,
        gradient_clip_val=stage.grad_clip,
    )
    task.load_state_dict(best_state(directory))
    return task.autoencoder.eval().cpu()
