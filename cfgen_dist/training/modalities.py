"""What of an atlas a model is of: its modalities with their likelihoods, and the cells that have them all."""

import numpy as np

from data_loaders.errors import BadInput, nearest

MAIN = "rna"


def settle_likelihoods(config, atlas):
    """Give every modality of the atlas beside rna a likelihood; BadInput for a name that the atlas does not have."""
    proposed = {name: facts["likelihood"] for name, facts in (atlas.card.get("modalities") or {}).items()}
    known = [MAIN, *(name for name in proposed if name != MAIN)]
    for name in config.modalities.likelihood:
        if name not in known:
            raise BadInput(f"modalities.likelihood: the atlas has no modality {name!r}, {nearest(name, known)}")
    proposed.pop(MAIN, None)
    config.modalities.likelihood = proposed | config.modalities.likelihood


def other_modalities(config):
    """Names of the modalities of a settled config beside rna."""
    return [name for name in config.modalities.likelihood if name != MAIN]


def model_features(atlas, config):
    """Modality → table of its features, of every modality of the model, `rna` first."""
    return {MAIN: atlas.var} | {name: atlas.features(name) for name in other_modalities(config)}


def sized_modalities(config):
    """Modalities beside rna whose counts scale with a size factor of their own."""
    return [name for name in other_modalities(config) if config.modalities.likelihood[name] != "bernoulli"]


def complete(atlas, config, rows):
    """Those of `rows` whose cells have counts in every modality of the model.

    The flow learns from these alone: the latent of a cell without a modality is encoded from less, so it has another
    law, and new cells of that law would be decoded in the modality that it knows nothing of.
    """
    for name in other_modalities(config):
        rows = rows[np.asarray(atlas.obs(f"size_factor_{name}"))[rows] > 0]
    return rows
