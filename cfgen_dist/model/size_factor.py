"""The law of the size factor l: log l ~ Normal(m, s) (CFGen, section C.4), or observed ones resampled; per category."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from data_loaders.types import Floats, Ints

KEPT = 2048  # order statistics kept per category: enough to resample from, and bounded at any number of cells


@dataclass
class SizeFactorLaw:
    """Draws size factors.

    Attributes
    ----------
    kind : {"lognormal", "resample"}
    covariate : str or None
        Label column whose categories have a law each; None for one law.
    mean, std : (C,) float64 arrays
        Maximum-likelihood estimates of log l per category (C = 1 without a covariate).
    values : (V,) float64 array
        Observed size factors, category after category, sorted within each.
    offsets : (C + 1,) int64 array
        Where each category starts in `values`.
    others : dict of str to (V,) float64 array
        Size factors of further modalities, of the same cells as `values`.
    """

    kind: str
    covariate: str | None
    mean: Floats
    std: Floats
    values: Floats
    offsets: Ints
    others: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        size_factor: npt.ArrayLike,
        codes: Ints | None = None,
        n_categories: int = 1,
        *,
        kind: str = "lognormal",
        covariate: str | None = None,
        others: Mapping[str, npt.ArrayLike] | None = None,
    ) -> "SizeFactorLaw":
        """Estimate from training cells.

        A category with one cell has s = 0; a category with none takes the law of all cells.

        Parameters
        ----------
        size_factor : (N,) array
            Positive.
        codes : (N,) int array, optional
            Category of each cell.
        n_categories : int
        kind, covariate
            Kept.
        others : dict of str to (N,) array, optional
            Size factors of further modalities, positive.

        Returns
        -------
        SizeFactorLaw
        """
        sizes = np.asarray(size_factor, dtype=np.float64)
        codes = np.zeros(len(sizes), dtype=np.int64) if codes is None else codes
        mean, std, parts = np.zeros(n_categories), np.zeros(n_categories), []
        for category in range(n_categories):
            cells = np.flatnonzero(codes == category)
            cells = cells if len(cells) else np.arange(len(sizes))
            cells = cells[np.argsort(sizes[cells], kind="stable")]
            logs = np.log(sizes[cells])
            mean[category], std[category] = logs.mean(), logs.std()
            if len(cells) > KEPT:
                cells = cells[((np.arange(KEPT) + 0.5) * len(cells) / KEPT).astype(np.int64)]
            parts.append(cells)
        offsets = np.concatenate([[0], np.cumsum([len(cells) for cells in parts])])
        kept = np.concatenate(parts)
        further: dict[str, Floats] = {
            name: np.asarray(values, dtype=np.float64)[kept] for name, values in (others or {}).items()
        }
        return cls(kind, covariate, mean, std, sizes[kept], offsets.astype(np.int64), further)

    def draw(self, category: Ints, rng: np.random.Generator) -> Floats:
        """Draw one size factor a cell.

        Parameters
        ----------
        category : (B,) int array
            Zeros without a covariate.
        rng : numpy.random.Generator

        Returns
        -------
        (B,) float64 array
        """
        if self.kind == "lognormal":
            return np.asarray(np.exp(rng.normal(self.mean[category], self.std[category])))
        start, end = self.offsets[category], self.offsets[category + 1]
        return self.values[start + (rng.random(len(category)) * (end - start)).astype(np.int64)]

    def draw_others(self, size_factor: Floats, category: Ints, rng: np.random.Generator) -> dict[str, Floats]:
        """Draw the size factors of further modalities, given those of the first: deep cells are deep in both.

        log l_a = b log l + the residual of an observed cell of the category, b the least-squares slope in the category.

        Parameters
        ----------
        size_factor : (B,) array
            As `draw` gave them.
        category : (B,) int array
        rng : numpy.random.Generator

        Returns
        -------
        dict of str to (B,) float64 array
        """
        log_first, drawn = np.log(self.values), {}
        start, end = self.offsets[category], self.offsets[category + 1]
        for name, values in self.others.items():
            log_other, slope = np.log(values), np.zeros(len(self.mean))
            for k, (first, last) in enumerate(pairwise(self.offsets)):
                x, y = log_first[first:last], log_other[first:last]
                slope[k] = np.cov(x, y, bias=True)[0, 1] / max(x.var(), 1e-12) if last - first > 1 else 0.0
            cell = start + (rng.random(len(category)) * (end - start)).astype(np.int64)
            drawn[name] = np.exp(log_other[cell] + slope[category] * (np.log(size_factor) - log_first[cell]))
        return drawn

    def arrays(self) -> dict[str, Floats | Ints]:
        """The arrays to keep in a bundle."""
        arrays: dict[str, Floats | Ints] = {
            "mean": self.mean,
            "std": self.std,
            "values": self.values,
            "offsets": self.offsets,
        }
        return arrays | {f"values.{name}": values for name, values in self.others.items()}
