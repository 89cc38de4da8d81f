"""The stages of a run, one after the other, on every rank: autoencoder, latents, flow, bundle.

Each stage leaves its result in the run directory, written by rank 0; a run that is started again skips what is there.
"""

import importlib.metadata
import logging
import time

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cfgen_dist.bundle import CFGen
from cfgen_dist.model.build import build_autoencoder, build_velocity
from cfgen_dist.model.size_factor import SizeFactorLaw
from cfgen_dist.training.autoencoder import train_autoencoder
from cfgen_dist.training.encode import encode
from cfgen_dist.training.flow import fitted_rows, size_factor_range, train_flow
from cfgen_dist.training.memory import give_memory_back
from cfgen_dist.training.modalities import model_features, other_modalities, sized_modalities
from cfgen_dist.training.ranks import on_main
from data_loaders.errors import BadInput
from data_loaders.files import write_whole

log = logging.getLogger("cfgen_dist")
WEIGHTS = "weights.safetensors"


def run_stages(atlas, out, config):
    """Do what is left of a run.

    Parameters
    ----------
    atlas : Atlas
    out : Path
        Run directory with `config.yaml`.
    config : Config
        Settled: nothing in it depends on the atlas any more.
    """
    started = time.monotonic()
    labels = {name: atlas.categories(name) for name in config.labels}
    autoencoder = _autoencoder(atlas, config, out / "autoencoder")
    give_memory_back()
    latents = encode(atlas, autoencoder, out / "latents.zarr", _device(config))
    give_memory_back()
    velocity = _velocity(latents, labels, config, out / "flow")
    on_main(lambda: assemble(atlas, config, autoencoder, velocity, _provenance(atlas, out)).save(out / "bundle"))
    log.info("model written to %s after %.0f s", out / "bundle", time.monotonic() - started)


def identity(atlas):
    """What tells an atlas from another."""
    return {"path": str(atlas.name), "fingerprint": atlas.card.get("fingerprint"), "n_cells": atlas.n_cells}


def _autoencoder(atlas, config, directory):
    """The trained autoencoder, from its weights file if the stage is finished."""
    state = _finished(directory)
    if state is not None:
        n_features = {name: len(table) for name, table in model_features(atlas, config).items()}
        labels = {name: atlas.categories(name) for name in config.labels}
        autoencoder = build_autoencoder(config, n_features, labels)
        autoencoder.load_state_dict(state)
        return autoencoder.eval()
    log.info(
        "training the autoencoder on %s cells x %s genes", f"{len(atlas.rows(split='train')):,}", f"{atlas.n_genes:,}"
    )
    autoencoder = train_autoencoder(atlas, config, directory)
    _finish(directory, autoencoder)
    return autoencoder


def _velocity(latents, labels, config, directory):
    """The trained velocity network, from its weights file if the stage is finished."""
    state = _finished(directory)
    if state is not None:
        velocity = build_velocity(config, [len(c) for c in labels.values()], size_factor_range(latents, config))
        velocity.load_state_dict(state)
        return velocity.eval()
    log.info("training the flow on latents of %d dimensions", config.autoencoder.latent_dim)
    velocity = train_flow(latents, labels, config, directory)
    _finish(directory, velocity)
    return velocity


def _finished(directory):
    """The weights of a finished stage, else None."""
    path = directory / WEIGHTS

    def read():
        try:
            return load_file(path) if path.exists() else None
        except SafetensorError as error:
            raise BadInput(f"{path} is damaged ({error}); without that file the stage is done again") from error

    return on_main(read)


def _finish(directory, network):
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise BadInput(f"the training of the {directory.name} diverged: its weights are no numbers; lower its lr")
    on_main(lambda: write_whole(directory / WEIGHTS, lambda file: file.write(save(network.state_dict()))))


def assemble(atlas, config, autoencoder, velocity, provenance):
    """The model that two trained networks make, with what generation needs to know of the atlas.

    Parameters
    ----------
    atlas : Atlas
    config : Config
        Settled.
    autoencoder : Autoencoder
    velocity : Velocity
    provenance : dict

    Returns
    -------
    CFGen
    """
    combinations, counts = _combinations(atlas, config)
    labels = {name: atlas.categories(name) for name in config.labels}
    return CFGen(
        config, autoencoder, velocity, _size_factor_law(atlas, config), list(atlas.genes), labels,
        combinations, counts, provenance,
        features={name: list(atlas.features(name).index) for name in other_modalities(config)},
    )  # fmt: skip


def _device(config):
    return "cpu" if config.accelerator == "cpu" or not torch.cuda.is_available() else "cuda"


def _combinations(atlas, config):
    """Label combinations of the fitted cells (M, K) and their counts (M,)."""
    rows = fitted_rows(atlas, config)
    columns = [atlas.codes(name)[rows] for name in config.labels]
    codes = np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0))
    combinations, counts = np.unique(codes.astype(np.int64), axis=0, return_counts=True)
    return combinations, counts.astype(np.int64)


def _size_factor_law(atlas, config):
    rows, covariate = fitted_rows(atlas, config), config.size_factor.covariate
    codes = atlas.codes(covariate)[rows] if covariate else None
    n_categories = len(atlas.categories(covariate)) if covariate else 1
    others = {name: np.asarray(atlas.obs(f"size_factor_{name}"))[rows] for name in sized_modalities(config)}
    return SizeFactorLaw.fit(
        atlas.size_factor[rows], codes, n_categories, kind=config.size_factor.law, covariate=covariate, others=others
    )


def _provenance(atlas, out):
    versions = {
        name: importlib.metadata.version(name) for name in ("cfgen-dist", "torch", "lightning", "anndata", "zarr")
    }
    return {"atlas": identity(atlas), "training": _held_out(out), "versions": versions}


def _held_out(out):
    """The best held-out values of both stages, from their metrics files."""
    import pandas as pd

    best = {}
    for stage, metric in (("autoencoder", "val_nll"), ("flow", "val_loss")):
        path = out / stage / "metrics.csv"
        metrics = pd.read_csv(path) if path.exists() else {}  # a training of fewer steps than are logged leaves none
        if metric in metrics:
            best[metric] = float(metrics[metric].min())
    return best
