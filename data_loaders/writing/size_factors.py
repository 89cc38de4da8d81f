"""The law of log size factors over training cells, summed while a store is written."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_loaders.types import Floats, Ints


class SizeFactorSums:
    """Sums of the maximum-likelihood normal law of log size factors over training cells, overall and per category.

    Log size factors are summed around a fixed centre, so that the variance keeps its digits at any number of cells.
    """

    CENTRE = 8.0  # natural log of about 3,000 counts, a usual depth

    def __init__(self) -> None:
        self.overall = np.zeros(3)  # number of cells, sum and sum of squares of (log size factor - centre)
        self.by: dict[str, Floats] = {}  # label column -> (categories, 3)
        self.smallest, self.largest = np.inf, 0.0

    def add(self, size_factor: Floats, codes: Mapping[str, Ints], n_categories: Mapping[str, int]) -> None:
        """Add training cells: `size_factor` (n,), `codes` {label: int (n,)}, `n_categories` {label: int}."""
        if len(size_factor) == 0:
            return
        x = np.log(size_factor.astype(np.float64)) - self.CENTRE
        sums = np.stack([np.ones_like(x), x, x * x])
        self.overall += sums.sum(1)
        self.smallest = min(self.smallest, float(size_factor.min()))
        self.largest = max(self.largest, float(size_factor.max()))
        for label, column in codes.items():
            known_code = column >= 0  # -1 is a cell without the label
            weights, column = (sums, column) if known_code.all() else (sums[:, known_code], column[known_code])
            seen: Floats = np.stack(
                [np.bincount(column, weights=s, minlength=n_categories[label]) for s in weights],
                axis=1,
                dtype=np.float64,
            )
            known = self.by.get(label, np.zeros((0, 3)))
            seen[: len(known)] += known
            self.by[label] = seen

    def summary(self, categories: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The law as plain numbers; `categories` {label: list of names} in the order of the codes.

        Returns
        -------
        dict
            `mean_log` and `sd_log` (natural log), `min` and `max` (counts), `n_cells`, and `by` {label: {category: the
            first two and n_cells}}. A category without training cells has None for both; with one, `sd_log` is 0.
        """
        by = {}
        for label, names in categories.items():
            rows = np.zeros((len(names), 3))
            known = self.by.get(label, np.zeros((0, 3)))
            rows[: len(known)] = known
            by[label] = {name: self._law(row) for name, row in zip(names, rows, strict=True)}
        seen = self.overall[0] > 0
        bounds = {"min": self.smallest if seen else None, "max": self.largest if seen else None}
        return self._law(self.overall) | bounds | {"by": by}

    def _law(self, sums: Floats) -> dict[str, Any]:
        """Mean and standard deviation from number, sum and sum of squares (3,)."""
        n, total, squares = sums
        if n == 0:
            return {"n_cells": 0, "mean_log": None, "sd_log": None}
        mean = total / n
        variance = max(squares / n - mean * mean, 0.0)
        return {"n_cells": int(n), "mean_log": float(mean + self.CENTRE), "sd_log": float(np.sqrt(variance))}
