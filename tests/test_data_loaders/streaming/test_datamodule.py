"""Lightning trains on streams, and resumes in mid-epoch with the very same batches."""

import lightning as L
import numpy as np
import pytest
import torch

from data_loaders import open_atlas
from data_loaders.errors import BadInput
from data_loaders.streaming.datamodule import AtlasDataModule


class Recorder(L.LightningModule):
    """A one-weight model that remembers the rows it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown = []

    def training_step(self, batch):
        assert torch.is_tensor(batch.rows)
        self.shown.append(batch.rows.numpy().copy())
        return (batch.counts["rna"].to_dense().sum(1).log() - self.weight).pow(2).mean()

    def validation_step(self, batch):
        self.shown.append(-batch.rows.numpy())

    def test_step(self, batch):
        self.shown.append(batch.rows.numpy())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, enable_checkpointing=False, num_sanity_val_steps=2, **quiet, **options)


def test_splits_go_to_their_loops(tiny_atlas, tmp_path):
    data, model = AtlasDataModule(tiny_atlas, 32), Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, data)
    shown = np.concatenate(model.shown)
    np.testing.assert_array_equal(np.unique(shown[shown > 0]), data.atlas.rows("train")[data.atlas.rows("train") > 0])
    assert np.isin(-shown[shown < 0], data.atlas.rows("val")).all()
    model.shown.clear()
    trainer(tmp_path).test(model, data, verbose=False)
    np.testing.assert_array_equal(np.concatenate(model.shown), data.atlas.rows("test"))


def test_a_run_stopped_in_mid_epoch_continues_with_the_next_batch(tiny_atlas, tmp_path):
    def fit(steps, resume=None):
        model = Recorder()
        data = AtlasDataModule(tiny_atlas, 64, buffer_bytes=1 << 13)
        run = trainer(tmp_path, max_steps=steps, limit_val_batches=0)
        run.fit(model, data, ckpt_path=resume, weights_only=True)
        run.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return model

    per_epoch = len(AtlasDataModule(tiny_atlas, 64).train_dataloader())
    whole = fit(2 * per_epoch + 3)
    for stop in (per_epoch - 2, per_epoch, per_epoch + 1):
        first = fit(stop)
        rest = fit(2 * per_epoch + 3, resume=tmp_path / f"{stop}.ckpt")
        shown = first.shown + rest.shown
        assert len(shown) == len(whole.shown)
        for got, expected in zip(shown, whole.shown, strict=True):
            np.testing.assert_array_equal(got, expected)
        assert torch.equal(rest.weight, whole.weight)


def test_an_atlas_without_test_cells_says_so(tiny_atlas):
    data = AtlasDataModule(tiny_atlas, 8)
    data.atlas = open_atlas(tiny_atlas)
    data.atlas._columns["split"] = (np.zeros(data.atlas.n_cells, np.int8), ["train", "val", "test"])
    assert data.val_dataloader() == []
    with pytest.raises(BadInput, match="no cell has the split 'test'"):
        data.test_dataloader()
