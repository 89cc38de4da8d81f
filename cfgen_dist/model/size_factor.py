"""The law of the size factor l: log l ~ Normal(m, s) (CFGen, section C.4), or observed ones resampled; per category."""

from dataclasses import dataclass

import numpy as np

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
    """

    kind: str
    covariate: str | None
    mean: np.ndarray
    std: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def fit(cls, size_factor, codes=None, n_categories=1, *, kind="lognormal", covariate=None):
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

        Returns
        -------
        SizeFactorLaw
        """
        size_factor = np.asarray(size_factor, dtype=np.float64)
        codes = np.zeros(len(size_factor), dtype=np.int64) if codes is None else codes
        mean, std, values = np.zeros(n_categories), np.zeros(n_categories), []
        for category in range(n_categories):
            own = size_factor[codes == category]
            own = np.sort(own if len(own) else size_factor)
            mean[category], std[category] = np.log(own).mean(), np.log(own).std()
            if len(own) > KEPT:
                own = own[((np.arange(KEPT) + 0.5) * len(own) / KEPT).astype(np.int64)]
            values.append(own)
        offsets = np.concatenate([[0], np.cumsum([len(own) for own in values])])
        return cls(kind, covariate, mean, std, np.concatenate(values), offsets.astype(np.int64))

    def draw(self, category, rng):
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
            return np.exp(rng.normal(self.mean[category], self.std[category]))
        start, end = self.offsets[category], self.offsets[category + 1]
        return self.values[start + (rng.random(len(category)) * (end - start)).astype(np.int64)]

    def arrays(self):
        """The arrays to keep in a bundle."""
        return {"mean": self.mean, "std": self.std, "values": self.values, "offsets": self.offsets}
