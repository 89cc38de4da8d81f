"""The stages of a run, one after the other, on every rank: autoencoder, latents, flow, calibration, bundle.

Each stage leaves its result in the run directory, written by rank 0; a run that is started again skips what is there.
"""

import importlib.metadata
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import Config, SizeFactorConfig
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.bundle_form import check_state
from cfgen_dist.model.calibration import Calibration, empty_state
from cfgen_dist.model.multimodal import JointAutoencoder, branches
from cfgen_dist.model.size_factor import SizeFactorLaw
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.training.autoencoder import train_autoencoder, untrained_autoencoder
from cfgen_dist.training.calibration import calibrate
from cfgen_dist.training.encode import encode
from cfgen_dist.training.flow import train_flow, untrained_velocity
from cfgen_dist.training.folder import METRICS, WEIGHTS, RunFolder
from cfgen_dist.training.held_out import validation_loss, validation_nll
from cfgen_dist.training.memory import give_memory_back
from cfgen_dist.training.modalities import atlas_card, fitted_rows, other_modalities, sized_modalities
from cfgen_dist.training.ranks import on_main
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.stopping import stop_between_stages
from cfgen_dist.training.transfer import learn_transfer
from data_loaders import Atlas
from data_loaders.errors import BadInput
from data_loaders.types import Floats, Ints
from data_loaders.vouchers import check_vouched, vouch, write_vouched

log = logging.getLogger("cfgen_dist")
DONE_AGAIN = "; without that file the stage is done again"


def run_stages(atlas: Atlas, folder: RunFolder, config: Config) -> None:
    """Do what is left of a run.

    Parameters
    ----------
    atlas : Atlas
    folder : RunFolder
        Of a run with `config.yaml`.
    config : Config
        Settled: nothing in it depends on the atlas any more.
    """
    started = time.monotonic()
    bundle = folder.place / "bundle"
    on_main(folder.take_up)
    autoencoder = _autoencoder(atlas, config, folder)
    give_memory_back()
    latents = encode(atlas, autoencoder, folder.place / "latents.zarr", _device(config.accelerator))
    give_memory_back()
    velocity = _velocity(latents, label_categories(atlas, config), config, folder)
    calibration = _calibration(atlas, config, autoencoder, folder)
    training = on_main(
        lambda: _on_validation_cells(atlas, latents, config, autoencoder, velocity, calibration, folder.path)
    )

    def write_bundle() -> None:
        model = assemble(atlas, config, autoencoder, velocity, _provenance(atlas, training), calibration)
        model.transfer = learn_transfer(autoencoder, velocity, latents, model.labels, config)
        model.save(str(bundle))

    on_main(write_bundle)
    log.info("model written to %s after %.0f s", bundle.shown, time.monotonic() - started)


def label_categories(atlas: Atlas, config: Config) -> dict[str, list[str]]:
    """The attributes that a settled config conditions on, with their categories."""
    return {name: list(atlas.categories(name)) for name in config.labels or []}


def identity(atlas: Atlas) -> dict[str, Any]:
    """What tells an atlas from another."""
    return {"path": str(atlas.name), "fingerprint": atlas_card(atlas).get("fingerprint"), "n_cells": atlas.n_cells}


def _autoencoder(atlas: Atlas, config: Config, folder: RunFolder) -> Autoencoder | JointAutoencoder:
    """The trained autoencoder, from its weights file if the stage is finished."""
    directory = folder.path / "autoencoder"
    state = _finished(directory)
    if state is not None:
        autoencoder = untrained_autoencoder(atlas, config.autoencoder, config.modalities)
        _fill(autoencoder, state, directory)
        return autoencoder.eval()
    log.info(
        "training the autoencoder on %s cells x %s genes", f"{len(atlas.rows(split='train')):,}", f"{atlas.n_genes:,}"
    )
    settings = RunSettings.of(config, folder.saver)
    autoencoder = train_autoencoder(atlas, config.autoencoder, config.modalities, settings, directory)
    _finish(folder, directory, autoencoder)
    stop_between_stages()
    return autoencoder


def _velocity(latents: Atlas, labels: Mapping[str, Sequence[str]], config: Config, folder: RunFolder) -> Velocity:
    """The trained velocity network, from its weights file if the stage is finished."""
    directory = folder.path / "flow"
    state = _finished(directory)
    if state is not None:
        rows = fitted_rows(latents, config.modalities, config.refit)
        velocity = untrained_velocity(latents, labels, config.flow, rows)
        _fill(velocity, state, directory)
        return velocity.eval()
    log.info("training the flow on latents of %d dimensions", config.autoencoder.latent_dim)
    settings = RunSettings.of(config, folder.saver)
    velocity = train_flow(latents, labels, config.flow, config.modalities, settings, directory)
    _finish(folder, directory, velocity)
    stop_between_stages()
    return velocity


def _calibration(
    atlas: Atlas, config: Config, autoencoder: Autoencoder | JointAutoencoder, folder: RunFolder
) -> Calibration | None:
    """The calibration, from its file if the stage is finished; None where none is wanted."""
    if not config.calibrate or not config.labels:
        return None
    sizes = {name: len(categories) for name, categories in label_categories(atlas, config).items()}
    features = {name: network.n_genes for name, network in branches(autoencoder).items()}
    directory = folder.path / "calibration"
    state = _finished(directory)
    if state is not None:
        check_state(empty_state(sizes, features), state, f"{directory / WEIGHTS} is damaged", DONE_AGAIN)
        return Calibration.filled(state, sizes, features)
    parts = folder.place / "calibration/parts"
    calibration = calibrate(atlas, autoencoder, config, parts, _device(config.accelerator))

    def write() -> None:
        write_vouched(directory / WEIGHTS, save(calibration.state()))
        folder.finish_stage(directory.name)

    on_main(write)
    return calibration


def _finished(directory: Path) -> dict[str, torch.Tensor] | None:
    """The weights of a finished stage, else None."""
    path = directory / WEIGHTS

    def read() -> dict[str, torch.Tensor] | None:
        check_vouched(path, DONE_AGAIN)
        try:
            return load_file(path) if path.exists() else None
        except SafetensorError as error:
            raise BadInput(f"{path} is damaged ({error}){DONE_AGAIN}") from error

    return on_main(read)


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], directory: Path) -> None:
    check_state(network.state_dict(), state, f"{directory / WEIGHTS} is damaged", DONE_AGAIN)
    network.load_state_dict(dict(state))


def _finish(folder: RunFolder, directory: Path, network: nn.Module) -> None:
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise BadInput(f"the training of the {directory.name} diverged: its weights are not finite; lower its lr")

    def write() -> None:
        if (directory / METRICS).exists():
            vouch(directory / METRICS)
        write_vouched(directory / WEIGHTS, save(network.state_dict()))
        folder.finish_stage(directory.name)

    on_main(write)


def assemble(
    atlas: Atlas,
    config: Config,
    autoencoder: Autoencoder | JointAutoencoder,
    velocity: Velocity,
    provenance: dict[str, Any],
    calibration: Calibration | None = None,
) -> CFGen:
    """The model that two trained networks make, with what generation needs to know of the atlas.

    Parameters
    ----------
    atlas : Atlas
    config : Config
        Settled.
    autoencoder : Autoencoder or JointAutoencoder
    velocity : Velocity
    provenance : dict
    calibration : Calibration, optional

    Returns
    -------
    CFGen
    """
    labels, rows = label_categories(atlas, config), fitted_rows(atlas, config.modalities, config.refit)
    combinations, counts, mean_log_size = _combinations(atlas, list(labels), rows)
    return CFGen(
        config=config,
        autoencoder=autoencoder,
        velocity=velocity,
        size_factor=_size_factor_law(atlas, config.size_factor, sized_modalities(config.modalities), rows),
        genes=list(atlas.genes),
        labels=labels,
        combinations=combinations,
        counts=counts,
        mean_log_size=mean_log_size,
        provenance=provenance,
        features={name: list(atlas.features(name).index) for name in other_modalities(config.modalities)},
        calibration=calibration,
    )


def _device(accelerator: str) -> str:
    return "cpu" if accelerator == "cpu" or not torch.cuda.is_available() else "cuda"


def _combinations(atlas: Atlas, labels: Sequence[str], rows: Ints) -> tuple[Ints, Ints, Floats]:
    """Label combinations of the cells at `rows` (M, K), -1 where a cell lacks a label, their counts (M,) and sizes.

    The last are their mean log size factors (M,).
    """
    columns = [atlas.codes(name)[rows] for name in labels]
    codes = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))
    combinations, which, counts = np.unique(codes.astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    sizes = np.log(np.maximum(atlas.size_factor[rows], 1.0).astype(np.float64))
    return combinations, counts.astype(np.int64), np.bincount(which.reshape(-1), sizes, len(counts)) / counts


def _size_factor_law(atlas: Atlas, config: SizeFactorConfig, sized: Sequence[str], rows: Ints) -> SizeFactorLaw:
    """The law of the cells at `rows`; `sized` names the further modalities that have size factors."""
    covariate = config.covariate
    codes = atlas.codes(covariate)[rows] if covariate else None
    n_categories = len(atlas.categories(covariate)) if covariate else 1
    others = {name: np.asarray(atlas.obs(f"size_factor_{name}"))[rows] for name in sized}
    return SizeFactorLaw.fit(
        atlas.size_factor[rows], codes, n_categories, kind=config.law, covariate=covariate, others=others
    )


def _provenance(atlas: Atlas, training: dict[str, float]) -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name) for name in ("cfgen-dist", "torch", "lightning", "anndata", "zarr")
    }
    return {"atlas": identity(atlas), "training": training, "versions": versions}


def _on_validation_cells(
    atlas: Atlas,
    latents: Atlas,
    config: Config,
    autoencoder: Autoencoder | JointAutoencoder,
    velocity: Velocity,
    calibration: Calibration | None,
    out: Path,
) -> dict[str, float]:
    """How the shipped weights do on validation cells.

    `val_nll` and `val_loss` are of what is shipped, `val_nll_uncalibrated` is without the calibration. With `refit`
    these were trained on the validation cells too: then there is no `val_loss`, and `val_nll_before_refit` is what
    cells held out cost under the weights whose epoch the refit stopped at.
    """
    device = _device(config.accelerator)
    found = {"val_nll": validation_nll(autoencoder, atlas, config, device, calibration)}
    if calibration is not None:
        found["val_nll_uncalibrated"] = validation_nll(autoencoder, atlas, config, device)
    if not config.refit:
        return found | {"val_loss": validation_loss(velocity, latents, config, device)}
    path = out / "autoencoder" / METRICS
    check_vouched(path, f"; without it and {WEIGHTS} the stage is done again")
    metrics = pd.read_csv(path) if path.exists() else {}  # a training of fewer steps than are logged leaves none
    return found | ({"val_nll_before_refit": float(metrics["val_nll"].min())} if "val_nll" in metrics else {})
