"""The Poisson likelihood of sparse counts: a negative binomial without dispersion (CFGen, appendix C)."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cfgen_dist.model.likelihoods.likelihood import Csr, Likelihood, needed
from cfgen_dist.model.likelihoods.negative_binomial import draw, log_profile
from cfgen_dist.model.sweeps.blocks import Counts
from cfgen_dist.model.sweeps.poisson import sweep
from data_loaders.types import Floats, Ints

NO_DISPERSION = 1e12  # inverse dispersion of a negative binomial that is a Poisson to twelve digits


class Poisson(Likelihood):
    """Mean l * rho, rho the softmax over features of the decoder's outputs."""

    name = "poisson"
    has_sweep = True

    def start_bias(self, mean: Tensor, n_cells: int) -> Tensor:
        """Log of the mean profile."""
        return log_profile(mean, n_cells)

    def decode(self, outputs: Tensor) -> Tensor:
        """Log proportions log rho (B, F)."""
        return F.log_softmax(outputs, dim=1)

    def nll(self, outputs: Tensor, counts: Tensor, size_factor: Tensor, log_theta: Tensor | None) -> Tensor:
        """Negative log-likelihood (B,); see `poisson_nll`."""
        rows, columns = counts.nonzero(as_tuple=True)  # first: torch.compile starts a new graph after it
        log_mu = self.decode(outputs) + size_factor.clamp_min(1.0).log()[:, None]
        return poisson_nll(log_mu, counts[rows, columns], rows, columns)

    def sweep(
        self,
        logits: Tensor,
        further: Tensor,
        bias: Tensor,
        log_theta: Tensor | None,
        lines: Ints,
        size_factor: Floats,
        counts: Counts,
        scale: float,
    ) -> tuple[float, Tensor, Tensor | None]:
        """Loss and gradient in one pass."""
        return *sweep(logits, bias, lines >= 0, size_factor, counts, scale), None

    def draw(
        self,
        outputs: Tensor,
        size_factor: Floats | None,
        log_theta: Tensor | None,
        seeds: Ints,
        rng: np.random.Generator,
    ) -> Csr:
        """Counts; see `cfgen_dist.model.likelihoods.negative_binomial.draw`."""
        rho = torch.softmax(outputs, dim=1).cpu().numpy()
        theta = np.full(rho.shape[1], NO_DISPERSION)
        return draw(rho, needed(size_factor, "size_factor"), theta, seeds, rng)


def poisson_nll(log_mu: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Negative log-likelihood of Poisson counts: mu everywhere, lgamma(x + 1) - x log mu where x > 0.

    Parameters
    ----------
    log_mu : (B, P) tensor
    values : (nnz,) tensor
        The non-zero counts, as floats.
    rows, columns : (nnz,) int64 tensors

    Returns
    -------
    (B,) tensor, nats per cell
    """
    at_counts = torch.lgamma(values + 1) - values * log_mu[rows, columns]
    return log_mu.exp().sum(dim=1).index_add(0, rows, at_counts)
