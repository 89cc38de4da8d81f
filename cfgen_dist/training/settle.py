"""What a config leaves open, filled in from the atlas; and what does not fit it, refused before anything starts."""

import numpy as np
import torch

from cfgen_dist.training.flow import fitted_rows
from cfgen_dist.training.modalities import other_modalities, settle_likelihoods
from data_loaders.errors import BadInput, nearest

FLOW_EPOCHS, FLOW_STEPS = 30, (2000, 100_000)  # when the config leaves the steps open


def settle(config, atlas, here):
    """Fill in what depends on the atlas and refuse what does not fit it, before anything is written.

    Parameters
    ----------
    config : Config
        Changed in place.
    atlas : Atlas
    here : bool
        Whether training runs in this process, so that a GPU must be here.

    Raises
    ------
    BadInput
    """
    check_atlas(atlas)
    known = list(atlas.labels)
    config.labels = known if config.labels is None else config.labels
    if len(set(config.labels)) < len(config.labels):
        raise BadInput(f"labels names a column twice: {', '.join(config.labels)}")
    if here and config.accelerator == "gpu" and not torch.cuda.is_available():
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
    settle_likelihoods(config, atlas)
    if other_modalities(config) and len(fitted_rows(atlas, config)) == 0:
        names = ", ".join(other_modalities(config))
        raise BadInput(f"atlas {atlas.name}: no training cell has counts in rna and {names} together")
    if config.flow.max_steps is None:
        epochs = FLOW_EPOCHS * len(fitted_rows(atlas, config)) // config.flow.batch_size
        config.flow.max_steps = int(np.clip(epochs, *FLOW_STEPS))
    for split in ("train", "val"):
        if len(atlas.rows(split=split)) == 0:
            raise BadInput(f"atlas {atlas.name}: no cell has split {split!r}; ingest it with --val-fraction")
    if (atlas.size_factor[atlas.rows(split="train")] <= 0).any():
        raise BadInput(f"atlas {atlas.name}: some training cells have no counts; ingest it with --drop-empty")


def check_atlas(atlas):
    """Raise `BadInput` for a store whose counts were never checked and cells never split, such as an h5ad."""
    if atlas.card is None or "splits" not in atlas.card or "rna" not in atlas.modalities:
        raise BadInput(
            f"{atlas.name}: not an atlas that `cfgen-dist ingest` wrote; `cfgen-dist ingest {atlas.name} OUT` makes one"
        )
