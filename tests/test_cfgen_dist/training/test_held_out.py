"""What a bundle says of validation cells is of the weights in it: best epoch, averaged, refitted, unseen categories."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from cfgen_dist import train
from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.model.build import build_autoencoder
from cfgen_dist.model.multimodal import branches
from cfgen_dist.training import held_out
from cfgen_dist.training.autoencoder import _fill_unseen_dispersions
from cfgen_dist.training.settle import settle
from data_loaders import ingest, open_atlas, simulate
from data_loaders.errors import BadInput

BASE = TINY | {"autoencoder.theta_covariate": "cell_type", "autoencoder.max_epochs": 4, "autoencoder.ema": 0.9}


def nll(model, atlas, calibrated=True):
    """Of validation cells, all at once: mean nats per cell under the bundle's own weights."""
    rows = atlas.rows(split="val")
    codes = np.stack([atlas.codes(name)[rows] for name in model.labels], axis=1)
    counts = torch.from_numpy(atlas.read(rows).to_scipy().toarray().astype(np.float32))
    category = torch.from_numpy(atlas.codes("cell_type")[rows].astype(np.int64))
    with torch.inference_mode():
        size_factor = torch.from_numpy(np.asarray(atlas.size_factor[rows], np.float32))
        shifts = model.shifts(codes) if calibrated else None
        return float(model.autoencoder.eval()(counts, size_factor, category, shifts))


@pytest.mark.heavy
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_without_refit_it_is_that_of_the_best_epoch(tiny_atlas, tmp_path, ema):
    model = train(tiny_atlas, tmp_path / "run", load_config(overrides=BASE | {"refit": False, "autoencoder.ema": ema}))
    found, logged = model.provenance["training"], pd.read_csv(tmp_path / "run" / "autoencoder" / "metrics.csv")
    assert found["val_nll"] == pytest.approx(nll(model, open_atlas(tiny_atlas)), rel=1e-5)
    plain = found["val_nll_uncalibrated"]
    assert plain == pytest.approx(nll(model, open_atlas(tiny_atlas), False), rel=1e-5)
    assert plain == pytest.approx(logged["val_nll"].min(), rel=1e-4), "the best epoch's, averaged or not"
    losses = pd.read_csv(tmp_path / "run" / "flow" / "metrics.csv")["val_loss"].dropna()
    assert found["val_loss"] == pytest.approx(losses.iloc[-1], rel=1e-4), "the last one's: these are shipped"
    assert "val_nll_before_refit" not in found


@pytest.mark.heavy
def test_after_a_refit_it_is_that_of_the_refitted_weights(tiny_atlas, tmp_path, capsys):
    model = train(tiny_atlas, tmp_path / "run", load_config(overrides=BASE | {"refit": True}))
    found, logged = model.provenance["training"], pd.read_csv(tmp_path / "run" / "autoencoder" / "metrics.csv")
    assert found["val_nll"] == pytest.approx(nll(model, open_atlas(tiny_atlas)), rel=1e-5)
    assert found["val_nll_before_refit"] == pytest.approx(logged["val_nll"].min())
    assert found["val_nll"] != pytest.approx(found["val_nll_before_refit"], rel=1e-6), "other weights"
    assert "val_loss" not in found
    assert main(["describe", str(tmp_path / "run")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(validation cells, which these weights were trained on)" in shown
    assert "(validation cells held out, other weights: before the refit)" in shown


def test_of_many_cells_some_are_enough(tiny_atlas, monkeypatch):
    atlas, config = open_atlas(tiny_atlas), load_config(overrides=BASE)
    settle(config, atlas, here=False)
    network = build_autoencoder(
        config.autoencoder, config.modalities, {"rna": atlas.n_genes}, len(atlas.categories("cell_type"))
    ).eval()
    whole = held_out.validation_nll(network, atlas, config, "cpu")
    monkeypatch.setattr(held_out, "MOST_CELLS", len(atlas.rows(split="val")) // 2)
    assert held_out.validation_nll(network, atlas, config, "cpu") == pytest.approx(whole, rel=0.2)


@pytest.mark.parametrize("refit", [False, True])
def test_a_category_that_was_trained_on_keeps_its_theta(tmp_path, refit):
    """One of validation cells alone is trained by the refit, one of test cells alone never is."""
    simulate(tmp_path / "source.zarr", cells=120, genes=30, types=4, donors=1, density=0.4, seed=1)
    atlas = open_atlas(tmp_path / "source.zarr")
    codes = atlas.codes("cell_type")
    rows = {0: [0, 1], 1: [0, 1, 2]}[int(refit)]
    fitted = np.flatnonzero(np.isin(codes, rows))
    config = load_config(overrides=TINY)
    network = build_autoencoder(config.autoencoder, config.modalities, {"rna": 30}, len(atlas.categories("cell_type")))
    with torch.no_grad():
        network.log_theta.copy_(torch.arange(len(network.log_theta))[:, None].expand_as(network.log_theta))
    _fill_unseen_dispersions(network, atlas, "cell_type", fitted)
    assert branches(network)["rna"].log_theta[:, 0].tolist() == [
        0, 1, 2 if refit else 0.5, 1 if refit else 0.5
    ]  # fmt: skip


def test_a_modality_that_no_cell_of_a_category_has_is_unseen_there(tmp_path):
    from types import SimpleNamespace

    def branch():
        theta = torch.nn.Parameter(torch.tensor([0.0, 7.0, 2.0])[:, None].repeat(1, 2))
        return SimpleNamespace(likelihood=SimpleNamespace(has_dispersion=True), log_theta=theta)

    from cfgen_dist.training import autoencoder as module

    networks = {"rna": branch(), "adt": branch()}
    atlas = SimpleNamespace(
        codes=lambda name: np.array([0, 1, 2]), categories=lambda name: list("abc"),
        obs=lambda name: np.array([5.0, 0.0, 3.0]),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "branches", lambda network: networks)
        _fill_unseen_dispersions(None, atlas, "donor", np.arange(3))
    assert networks["rna"].log_theta[:, 0].tolist() == [0, 7, 2]
    assert networks["adt"].log_theta[:, 0].tolist() == [0, 1, 2], "the mean of 0 and 2"


def test_validation_cells_without_the_label_of_theta_are_refused(tmp_path):
    """The code -1 would have been the last category's theta."""
    import anndata as ad

    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (200, 30)).astype(np.float32)
    donor = np.array(["a", "b"])[rng.integers(2, size=200)].astype(object)
    obs = pd.DataFrame({"cell_type": ["x"] * 200, "donor": donor}, index=[f"c{i}" for i in range(200)])
    ad.AnnData(counts, obs=obs).write_h5ad(tmp_path / "a.h5ad")
    ingest([tmp_path / "a.h5ad"], tmp_path / "first.zarr", labels=["cell_type"], min_cells=0, keep_order=True)
    held = open_atlas(tmp_path / "first.zarr").rows(split="val")
    obs.iloc[held, 1] = np.nan
    ad.AnnData(counts, obs=obs).write_h5ad(tmp_path / "b.h5ad")
    ingest(
        [tmp_path / "b.h5ad"], tmp_path / "atlas.zarr", labels=["cell_type", "donor"], min_cells=0, keep_order=True,
        unlabelled="keep",
    )  # fmt: skip
    atlas, config = open_atlas(tmp_path / "atlas.zarr"), load_config(overrides={"autoencoder.theta_covariate": "donor"})
    assert (atlas.codes("donor")[atlas.rows(split="val")] < 0).all()
    message = (
        r"theta_covariate is 'donor', but \d+ of \d+ validation cells have no 'donor'; expected a label that every"
    )
    with pytest.raises(BadInput, match=message):
        settle(config, atlas, here=False)
