"""Offsets of a trained decoder, a number for each feature and category: the means of real cells, given back.

A decoder that is penalised and stopped early shrinks what sets a type apart, and what it has too little of in a type it
has too little of in every generated cell. Once it is trained, what cells of a category were counted is compared with
what the decoder expects of the same cells, and the log of the ratio is added to its outputs wherever a cell of the
category is made.

With o the counts observed of a feature in a category and e those expected, the offset is log((o + 1) / (e + 1)): the
log of the posterior mean of a factor r ~ Gamma(1, 1) where o ~ Poisson(e r). Few counts say little, and move little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from data_loaders.types import Floats, Ints

PSEUDO_COUNT = 1.0


@dataclass(frozen=True)
class Calibration:
    """Offsets of the decoders of a model.

    Attributes
    ----------
    tables : dict of str to dict of str to (C, F) float32 tensor
        Modality → attribute → offset of each category and feature.
    """

    tables: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def shift(self, modality: str, codes: Mapping[str, Tensor]) -> Tensor | None:
        """What to add to the decoder's outputs of some cells: the sum over their attributes.

        Parameters
        ----------
        modality : str
        codes : dict of str to (B,) int64 tensor
            Attribute → categories of the cells. A code of -1, or an attribute that is left out, adds nothing.

        Returns
        -------
        (B, F) float32 tensor on the device of the tables; None where nothing is added to any cell
        """
        total: Tensor | None = None
        for attribute, table in self.tables.get(modality, {}).items():
            if attribute not in codes:
                continue
            of_cells = codes[attribute].to(table.device, torch.int64)
            rows = table[of_cells.clamp_min(0)]
            rows[of_cells < 0] = 0.0
            total = rows if total is None else total.add_(rows)
        return total

    def shifts(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`shift` of every modality where something is added."""
        found = {modality: self.shift(modality, codes) for modality in self.tables}
        return {modality: shift for modality, shift in found.items() if shift is not None}

    def joined(self, attribute: str, tables: Mapping[str, Tensor]) -> Calibration:
        """The same with the offsets of one attribute more, given as modality → (C, F) float32 tensor."""
        return Calibration({name: self.tables.get(name, {}) | {attribute: table} for name, table in tables.items()})

    def to(self, device: str | torch.device) -> Calibration:
        """The same on another device."""
        return Calibration(
            {name: {key: each.to(device) for key, each in tables.items()} for name, tables in self.tables.items()}
        )

    def state(self) -> dict[str, Tensor]:
        """The tables by one name each, `MODALITY.ATTRIBUTE`, to be kept in a file."""
        return {f"{name}.{key}": each for name, tables in self.tables.items() for key, each in tables.items()}

    @classmethod
    def filled(
        cls, state: Mapping[str, Tensor], n_categories: Mapping[str, int], modalities: Mapping[str, int]
    ) -> Self:
        """The calibration that `state` kept; its names and shapes are those of `empty_state`."""
        return cls({name: {key: state[f"{name}.{key}"] for key in n_categories} for name in modalities})

    def spread(self) -> dict[str, dict[str, float]]:
        """Attribute → modality → root mean square of its offsets."""
        found: dict[str, dict[str, float]] = {}
        for modality, tables in self.tables.items():
            for attribute, table in tables.items():
                found.setdefault(attribute, {})[modality] = float(table.double().square().mean().sqrt())
        return found


def empty_state(n_categories: Mapping[str, int], modalities: Mapping[str, int]) -> dict[str, Tensor]:
    """What `Calibration.state` looks like: names, shapes and types, without memory.

    Parameters
    ----------
    n_categories : dict of str to int
        Attribute → categories.
    modalities : dict of str to int
        Modality → features.
    """
    with torch.device("meta"):
        return {f"{name}.{key}": torch.zeros(c, f) for name, f in modalities.items() for key, c in n_categories.items()}


def share_offsets(observed: Floats, expected: Floats, mean_size: Floats) -> Floats:
    """Offsets of log proportions.

    Parameters
    ----------
    observed, expected : (C, F) float64 arrays
        Proportions summed over the cells of each category, so that every cell counts alike, whatever its depth.
    mean_size : (C,) float64 array
        Mean size factor of the cells of each category: it makes counts of proportions.

    Returns
    -------
    (C, F) float32 array
    """
    o, e = observed * mean_size[:, None], expected * mean_size[:, None]
    return np.log((o + PSEUDO_COUNT) / (e + PSEUDO_COUNT)).astype(np.float32)


def odds_offsets(observed: Floats, expected: Floats, cells: Ints) -> Floats:
    """Offsets of logits.

    Parameters
    ----------
    observed, expected : (C, F) float64 arrays
        Ones, and their probabilities, summed over the cells of each category.
    cells : (C,) integer array
        How many there are.

    Returns
    -------
    (C, F) float32 array
    """
    n = np.asarray(cells, np.float64)[:, None]
    ones = np.log((observed + PSEUDO_COUNT) / (expected + PSEUDO_COUNT))
    zeros = np.log((n - observed + PSEUDO_COUNT) / (np.maximum(n - expected, 0.0) + PSEUDO_COUNT))
    return (ones - zeros).astype(np.float32)
