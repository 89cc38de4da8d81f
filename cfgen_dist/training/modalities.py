"""The part of an atlas that a model learns: modalities with their likelihoods, and the cells that have them all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cfgen_dist.config import ModalitiesConfig
from cfgen_dist.model.likelihoods import LIKELIHOODS
from data_loaders import Atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Ints

MAIN = "rna"


def settled_likelihoods(chosen: Mapping[str, Any], atlas: Atlas) -> dict[str, Any]:
    """Modality → likelihood: of every modality of the atlas beside rna, and of rna if it was chosen.

    Parameters
    ----------
    chosen : dict of str to str
        Modality → likelihood, as the user wants it; the others get what the atlas's card proposes.
    atlas : Atlas

    Raises
    ------
    BadInput
        The atlas has no modality of a name.
    """
    proposed = {name: facts["likelihood"] for name, facts in (atlas.card.get("modalities") or {}).items()}
    known = [MAIN, *(name for name in proposed if name != MAIN)]
    for name in chosen:
        if name not in known:
            raise BadInput(f"modalities.likelihood: the atlas has no modality {name!r}, {nearest(name, known)}")
    proposed.pop(MAIN, None)
    return proposed | dict(chosen)


def other_modalities(modalities: ModalitiesConfig) -> list[str]:
    """Names of the modalities of a settled config beside rna."""
    return [name for name in modalities.likelihood if name != MAIN]


def model_features(atlas: Atlas, modalities: ModalitiesConfig) -> dict[str, pd.DataFrame]:
    """Modality → table of its features, of every modality of the model, `rna` first."""
    return {MAIN: atlas.var} | {name: atlas.features(name) for name in other_modalities(modalities)}


def sized_modalities(modalities: ModalitiesConfig) -> list[str]:
    """Modalities beside rna whose counts scale with a size factor of their own."""
    names = other_modalities(modalities)
    return [name for name in names if LIKELIHOODS[modalities.likelihood[name]].scales_with_size_factor]


def complete(atlas: Atlas, modalities: ModalitiesConfig, rows: Ints) -> Ints:
    """Those of `rows` whose cells have counts in every modality of the model.

    The flow learns from these alone: the latent of a cell without a modality is encoded from less, so it has another
    law, and new cells of that law would be decoded in the modality that it knows nothing of.
    """
    for name in other_modalities(modalities):
        rows = rows[np.asarray(atlas.obs(f"size_factor_{name}"))[rows] > 0]
    return rows


def fitted_rows(atlas: Atlas, modalities: ModalitiesConfig, refit: bool) -> Ints:
    """Rows that the final model learns from: complete training cells, with `refit` validation cells too."""
    rows = atlas.rows(split="train")
    return complete(atlas, modalities, np.union1d(rows, atlas.rows(split="val")) if refit else rows)
