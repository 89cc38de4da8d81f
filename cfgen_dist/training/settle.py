"""What a config leaves open, filled in from the atlas; and what does not fit it, refused before anything starts."""

import logging
from fractions import Fraction

import numpy as np
import torch

from cfgen_dist.config import Config
from cfgen_dist.model.one_pass import half_is_faster
from cfgen_dist.training.flow import flow_steps
from cfgen_dist.training.modalities import atlas_card, fitted_rows, other_modalities, settled_likelihoods
from data_loaders import Atlas
from data_loaders.errors import BadInput, nearest

log = logging.getLogger("cfgen_dist")


def settle(config: Config, atlas: Atlas, here: bool, n_cells: int | None = None) -> None:
    """Fill in what depends on the atlas and refuse what does not fit it, before anything is written.

    Parameters
    ----------
    config : Config
        Changed in place.
    atlas : Atlas
    here : bool
        Whether training runs in this process, so that a GPU must be here.
    n_cells : int, optional
        As if the atlas had so many cells, of the same kinds.

    Raises
    ------
    BadInput
    """
    atlas_card(atlas)  # refuses what is no atlas
    known = list(atlas.labels)
    config.labels = known if config.labels is None else config.labels
    if len(set(config.labels)) < len(config.labels):
        raise BadInput(f"labels names a column twice: {', '.join(config.labels)}")
    if here and config.accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator is gpu, but torch finds no GPU here; expected auto or cpu")
    if config.precision == "auto":
        on_cpu = config.accelerator == "cpu" or not torch.cuda.is_available()
        config.precision = "bf16-products" if on_cpu and half_is_faster() else "32-true"
    auto = config.size_factor.covariate == "auto"
    if auto:
        config.size_factor.covariate = config.labels[0] if config.labels else None
    for key, name in (
        *(("labels", label) for label in config.labels),
        ("size_factor.covariate", config.size_factor.covariate),
        ("autoencoder.theta_covariate", config.autoencoder.theta_covariate),
    ):
        if name is not None and name not in known:
            raise BadInput(f"{key}: the atlas has no label column {name!r}, {nearest(name, known)}")
        if name is not None and name not in config.labels:
            labels = ", ".join(config.labels)
            raise BadInput(f"{key} is {name!r}, expected a label the model is conditioned on: {labels}")
    _refuse_gaps(config, atlas)
    config.modalities.likelihood = settled_likelihoods(config.modalities.likelihood, atlas)
    others, n_fitted = other_modalities(config.modalities), len(fitted_rows(atlas, config.modalities, config.refit))
    if others and n_fitted == 0:
        together = ", ".join(others)
        raise BadInput(f"atlas {atlas.name}: no training cell has counts in rna and {together} together")
    if config.flow.max_steps is None:
        share = Fraction(n_fitted, max(1, atlas.n_cells))
        config.flow.max_steps = flow_steps(share * (n_cells or atlas.n_cells), config.flow.batch_size)
    for split in ("train", "val"):
        if len(atlas.rows(split=split)) == 0:
            raise BadInput(f"atlas {atlas.name}: no cell has split {split!r}; `ingest(val_fraction=0.1)` gives it some")
    if (atlas.size_factor[atlas.rows(split="train")] <= 0).any():
        raise BadInput(f"atlas {atlas.name}: training cells without counts; `ingest(drop_empty=True)` leaves them out")


def _refuse_gaps(config: Config, atlas: Atlas) -> None:
    """Refuse labels that too few cells have, and say how many cells train without one.

    The flow learns from cells without a label, and so does the autoencoder; but a theta of each category needs the
    category of every cell, and generation draws combinations of labels that a cell has together.
    """
    rows = atlas.rows(split="train")
    labelled = {name: atlas.small_codes(name)[rows] >= 0 for name in config.labels or []}
    covariate = config.autoencoder.theta_covariate
    # Validation cells are scored with their theta, and `refit` trains on them.
    for what, split in (("training", "train"), ("validation", "val")):
        codes = atlas.small_codes(covariate)[atlas.rows(split=split)] if covariate else np.zeros(0)
        if (codes < 0).any():
            found = f"{int((codes < 0).sum()):,} of {len(codes):,} {what} cells have no {covariate!r}"
            raise BadInput(
                f"autoencoder.theta_covariate is {covariate!r}, but {found}; expected a label that every cell has, or "
                "none (null): one theta a gene"
            )
    for name, has in labelled.items():
        if not has.all():
            found = f"{int((~has).sum()):,} of {len(rows):,} training cells have no {name!r}"
            log.info("%s: they train without it", found)
    if labelled and not np.logical_and.reduce(list(labelled.values())).any():
        raise BadInput(
            f"atlas {atlas.name}: no training cell has all of the labels {', '.join(labelled)}; expected some, or "
            "fewer labels to train on"
        )
