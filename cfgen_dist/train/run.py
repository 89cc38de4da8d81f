"""The whole training as one function of (atlas, run directory, config): autoencoder, latents, flow, bundle."""

import copy
import importlib.metadata
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import load_config, save_config, to_dict
from cfgen_dist.model.size_factor import SizeFactorLaw
from cfgen_dist.train.autoencoder import train_autoencoder
from cfgen_dist.train.build import build_autoencoder, build_velocity
from cfgen_dist.train.encode import encode
from cfgen_dist.train.flow import fitted_rows, size_factor_range, train_flow
from data_loaders import open_atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.files import write_whole

log = logging.getLogger("cfgen_dist")
WEIGHTS = "weights.safetensors"
MAY_CHANGE = ("accelerator", "checkpoint_every_n_steps")  # on resume: they do not touch the result
FLOW_EPOCHS, FLOW_STEPS = 30, (2000, 100_000)  # when the config leaves the steps open


def train(atlas, out, config=None, *, resume=False):
    """Train a model and write it to `OUT/bundle`.

    Each stage leaves its result in the run directory: `autoencoder/`, `latents.zarr`, `flow/`, `bundle/`; a resumed run
    skips the stages that are finished and goes on inside the one that is not, from its last checkpoint.

    Parameters
    ----------
    atlas : path-like
        An atlas store with cells in the splits train and val.
    out : path-like
        Run directory.
    config : Config, optional
        The saved one when resuming, else the defaults.
    resume : bool
        Continue in an existing run directory.

    Returns
    -------
    CFGen

    Raises
    ------
    BadInput
        A run directory that exists (without `resume`), another config or atlas than the run was started with, settings
        that do not fit the atlas.
    """
    started = time.monotonic()
    source, out = open_atlas(atlas), Path(out)
    if (out / "config.yaml").exists():
        config = _resumed_config(out, config, source, resume)
        if (out / "bundle").exists():
            log.info("%s is finished: nothing to do", out)
            return CFGen.load(out / "bundle")
    else:
        if out.exists() and (not out.is_dir() or any(entry.name != "atlas.json" for entry in out.iterdir())):
            raise BadInput(f"{out} exists and is not a run: give a directory that does not exist")
        config = copy.deepcopy(config) if config else load_config()
        _settle(config, source)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "atlas.json", lambda file: file.write(json.dumps(_identity(source)).encode()))
        save_config(config, out / "config.yaml")  # last: with it the run exists
    labels = {name: source.categories(name) for name in config.labels}
    autoencoder = _autoencoder(source, config, out / "autoencoder")
    latents = encode(source, autoencoder, out / "latents.zarr", _device(config))
    velocity = _velocity(latents, labels, config, out / "flow")
    combinations, counts = _combinations(source, config)
    model = CFGen(
        config, autoencoder, velocity, _size_factor_law(source, config), list(source.genes), labels,
        combinations, counts, _provenance(source, out),
    )  # fmt: skip
    model.save(out / "bundle")
    log.info("model written to %s after %.0f s", out / "bundle", time.monotonic() - started)
    return model


def _settle(config, atlas):
    """Fill in what depends on the atlas and refuse what does not fit it, before anything is written."""
    known = list(atlas.labels)
    config.labels = known if config.labels is None else config.labels
    if len(set(config.labels)) < len(config.labels):
        raise BadInput(f"labels names a column twice: {', '.join(config.labels)}")
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator is gpu, but torch finds no GPU here; expected auto or cpu")
    auto = config.size_factor.covariate == "auto"
    if auto:
        config.size_factor.covariate = config.labels[0] if config.labels else None
    for key, names in (
        ("labels", config.labels),
        ("size_factor.covariate", [config.size_factor.covariate]),
        ("autoencoder.theta_covariate", [config.autoencoder.theta_covariate]),
    ):
        for name in names:
            if name is not None and name not in known:
                raise BadInput(f"{key}: the atlas has no label column {name!r}, {nearest(name, known)}")
            if name is not None and name not in config.labels:
                labels = ", ".join(config.labels)
                raise BadInput(f"{key} is {name!r}, expected a label the model is conditioned on: {labels}")
    if config.flow.max_steps is None:
        epochs = FLOW_EPOCHS * len(fitted_rows(atlas, config)) // config.flow.batch_size
        config.flow.max_steps = int(np.clip(epochs, *FLOW_STEPS))
    for split in ("train", "val"):
        if len(atlas.rows(split=split)) == 0:
            raise BadInput(f"atlas {atlas.name}: no cell has split {split!r}; ingest it with --val-fraction")
    if (atlas.size_factor[atlas.rows(split="train")] <= 0).any():
        raise BadInput(f"atlas {atlas.name}: some training cells have no counts; ingest it with --drop-empty")


def _resumed_config(out, config, atlas, resume):
    """The run's own config, if the request agrees with it."""
    if not resume:
        raise BadInput(f"{out} holds a run already: --resume continues it, or give another directory")
    saved = load_config(out / "config.yaml")
    identity = json.loads((out / "atlas.json").read_text())
    if identity["fingerprint"] != _identity(atlas)["fingerprint"]:
        raise BadInput(f"{out} was trained on {identity['path']}, whose cells differ from those of {atlas.name}")
    if config is not None:
        config = copy.deepcopy(config)
        _settle(config, atlas)
        asked, kept = _flat(to_dict(config)), _flat(to_dict(saved))
        for key, value in asked.items():
            if key not in MAY_CHANGE and kept[key] != value:
                raise BadInput(f"{out} was started with {key} = {kept[key]}, not {value}: resume it without changes")
        for key in MAY_CHANGE:
            setattr(saved, key, getattr(config, key))
    return saved


def _flat(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def _autoencoder(atlas, config, directory):
    """The trained autoencoder, from its weights file if the stage is finished."""
    if (directory / WEIGHTS).exists():
        state = load_file(directory / WEIGHTS)
        autoencoder = build_autoencoder(config.autoencoder, atlas.n_genes, state["log_theta"].shape[0])
        autoencoder.load_state_dict(state)
        return autoencoder.eval()
    log.info(
        "training the autoencoder on %s cells x %s genes", f"{len(atlas.rows(split='train')):,}", f"{atlas.n_genes:,}"
    )
    autoencoder = train_autoencoder(atlas, config, directory)
    write_whole(directory / WEIGHTS, lambda file: file.write(save(autoencoder.state_dict())))
    return autoencoder


def _velocity(latents, labels, config, directory):
    """The trained velocity network, from its weights file if the stage is finished."""
    if (directory / WEIGHTS).exists():
        velocity = build_velocity(config, [len(c) for c in labels.values()], size_factor_range(latents, config))
        velocity.load_state_dict(load_file(directory / WEIGHTS))
        return velocity.eval()
    log.info("training the flow on latents of %d dimensions", config.autoencoder.latent_dim)
    velocity = train_flow(latents, labels, config, directory)
    write_whole(directory / WEIGHTS, lambda file: file.write(save(velocity.state_dict())))
    return velocity


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
    return SizeFactorLaw.fit(
        atlas.size_factor[rows], codes, n_categories, kind=config.size_factor.law, covariate=covariate
    )


def _identity(atlas):
    return {
        "path": str(atlas.name),
        "fingerprint": atlas.card.get("fingerprint"),
        "n_cells": atlas.n_cells,
    }


def _provenance(atlas, out):
    versions = {
        name: importlib.metadata.version(name) for name in ("cfgen-dist", "torch", "lightning", "anndata", "zarr")
    }
    return {"atlas": _identity(atlas), "training": _held_out(out), "versions": versions}


def _held_out(out):
    """The best held-out values of both stages, from their metrics files."""
    import pandas as pd

    best = {}
    for stage, metric in (("autoencoder", "val_nll"), ("flow", "val_loss")):
        metrics = pd.read_csv(out / stage / "metrics.csv")
        if metric in metrics:
            best[metric] = float(metrics[metric].min())
    return best
