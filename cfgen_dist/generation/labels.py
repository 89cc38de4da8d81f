"""Does an atlas fit a model? The same genes, and labels that the model knows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_loaders import Atlas
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Ints

if TYPE_CHECKING:
    from cfgen_dist.bundle import CFGen

MISSING = -1


def check_genes(atlas: Atlas, model: CFGen) -> None:
    """Raise `BadInput` unless the genes of an atlas are those of the model, in the same order."""
    if list(atlas.genes) == list(model.genes):
        return
    position = next(
        (i for i, (a, b) in enumerate(zip(atlas.genes, model.genes, strict=False)) if a != b),
        min(atlas.n_genes, len(model.genes)),
    )
    raise BadInput(
        f"{atlas.name}: its {atlas.n_genes:,} genes are not the {len(model.genes):,} of the model (they differ from "
        f"gene {position} on); expected the atlas that the model was trained on, or one with the same genes"
    )


def check_attribute(model: CFGen, name: str, what: str) -> None:
    """Raise `BadInput` unless `name` is an attribute of the model; `what` asked for it."""
    if name not in model.labels:
        raise BadInput(f"{what}: the model was not trained on {name!r}, {nearest(name, model.labels)}")


def model_codes(atlas: Atlas, model: CFGen, rows: Ints, needed: Collection[str]) -> Ints:
    """Labels of cells of an atlas as codes of the model.

    Parameters
    ----------
    atlas : Atlas
    model : CFGen
    rows : int64 array (n,)
    needed : collection of str
        Attributes that every cell must have, with a category that the model knows.

    Returns
    -------
    (n, K) int64 array
        -1 where a label that is not needed is missing or unknown to the model.

    Raises
    ------
    BadInput
        A needed column is missing, or a needed label missing in a cell or unknown to the model.
    """
    codes = np.full((len(rows), len(model.labels)), MISSING, np.int64)
    for k, (name, categories) in enumerate(model.labels.items()):
        if name not in atlas.obs_columns:
            if name in needed:
                raise BadInput(f"{atlas.name}: no obs column {name!r}, {nearest(name, atlas.obs_columns)}")
            continue
        here = atlas.categories(name)
        known = np.append(pd.Index(categories).get_indexer(here), MISSING)  # a missing value, -1, takes the last entry
        found = atlas.small_codes(name)[rows]
        codes[:, k] = known[found]
        if name in needed and len(rows) and codes[:, k].min() == MISSING:
            wrong = found[codes[:, k] == MISSING]
            if (wrong == MISSING).any():
                raise BadInput(
                    f"{atlas.name}: obs column {name!r} has {int((wrong == MISSING).sum()):,} missing values; expected "
                    f"a label for each cell, or guidance without {name}"
                )
            raise BadInput(
                f"{atlas.name}: obs column {name!r} has {here[wrong[0]]!r}, which the model does not know, "
                f"{nearest(here[wrong[0]], categories)}"
            )
    return codes
