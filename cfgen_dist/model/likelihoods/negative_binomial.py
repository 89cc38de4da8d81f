"""The negative binomial in (mean mu, inverse dispersion theta): its likelihood of sparse counts, and its sampler.

Variance mu + mu^2 / theta. Source: Palma et al. 2025 (CFGen), equation 2; parametrisation of Lopez et al. 2018 (scVI).
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cfgen_dist.model.likelihoods.likelihood import LARGEST_COUNT, Csr, Likelihood, drawable, needed
from cfgen_dist.model.sweeps.blocks import Counts
from cfgen_dist.model.sweeps.negative_binomial import sweep
from data_loaders.types import Array, Floats, Ints
from data_loaders.uniforms import uniform

# Above this mean the draw by inversion walks too many steps: a Gamma-Poisson draw takes over.
LARGE_MEAN = 32.0


class NegativeBinomial(Likelihood):
    """Mean l * rho, rho the softmax over genes of the decoder's outputs; a theta a gene, or a gene and category."""

    name = "nb"
    has_dispersion = True
    has_sweep = True

    def start_bias(self, mean: Tensor, n_cells: int) -> Tensor:
        """Log of the mean profile."""
        return log_profile(mean, n_cells)

    def decode(self, outputs: Tensor) -> Tensor:
        """Log gene proportions log rho (B, F)."""
        return F.log_softmax(outputs, dim=1)

    def nll(self, outputs: Tensor, counts: Tensor, size_factor: Tensor, log_theta: Tensor | None) -> Tensor:
        """Negative log-likelihood (B,); see `negative_log_likelihood`."""
        rows, columns = counts.nonzero(as_tuple=True)  # first: torch.compile starts a new graph after it
        log_mu = self.decode(outputs) + size_factor.clamp_min(1.0).log()[:, None]
        return negative_log_likelihood(log_mu, needed(log_theta, "log_theta"), counts[rows, columns], rows, columns)

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
        return sweep(logits, bias, needed(log_theta, "log_theta"), lines, size_factor, counts, scale)

    def draw(
        self,
        outputs: Tensor,
        size_factor: Floats | None,
        log_theta: Tensor | None,
        seeds: Ints,
        rng: np.random.Generator,
    ) -> Csr:
        """Counts; see `draw`."""
        rho = torch.softmax(outputs, dim=1).cpu().numpy()
        theta = needed(log_theta, "log_theta").exp().cpu().numpy()
        return draw(rho, needed(size_factor, "size_factor"), theta, seeds, rng)


def log_profile(mean: Tensor, n_cells: int) -> Tensor:
    """Log of the mean profile (F,), with one count more of each feature over all cells."""
    return ((mean * n_cells + 1) / (mean.sum() * n_cells)).log()


def negative_log_likelihood(log_mu: Tensor, log_theta: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Negative log-likelihood of sparse counts, summed over genes.

    For a zero only ``theta log(theta / (theta + mu)) = -theta softplus(log mu - log theta)`` remains, so that term is
    dense and the three lgamma terms and the count term are evaluated at the non-zero entries alone.

    Parameters
    ----------
    log_mu : (B, G) tensor
        Log of the means.
    log_theta : (G,) or (B, G) tensor
        Log of the inverse dispersions.
    values : (nnz,) tensor
        The non-zero counts, as floats.
    rows, columns : (nnz,) int64 tensors
        Where they stand.

    Returns
    -------
    (B,) tensor, nats per cell.
    """
    log_ratio = log_mu - log_theta
    softplus = F.softplus(log_ratio)
    theta = log_theta.exp()
    nll = (theta * softplus).sum(dim=1)
    flat = rows * log_mu.shape[1] + columns
    theta_at = theta.reshape(-1)[flat] if theta.dim() == 2 else theta[columns]
    log_ratio_at = log_ratio.reshape(-1).gather(0, flat)
    # lgamma(x + theta) - lgamma(theta) loses the digits of a float32 at large theta: both are large and nearly equal.
    exact = theta_at.double()
    ratio = (torch.lgamma(values + exact) - torch.lgamma(exact)).to(values.dtype)
    at_counts = ratio - torch.lgamma(values + 1) + values * F.logsigmoid(log_ratio_at)
    return nll.index_add(0, rows, at_counts, alpha=-1)


def draw(rho: Floats, size_factor: Array, theta: Floats, seeds: Ints, rng: np.random.Generator) -> Csr:
    """Draw counts x ~ NB(size_factor * rho, theta) straight into CSR.

    Each entry is drawn by inversion from one uniform number that is a hash of (row seed, gene). As P(x > 0) <= mu, an
    entry whose uniform exceeds its mean is zero without any transcendental function: that settles more than nine in ten
    entries of a typical cell.

    Parameters
    ----------
    rho : (B, G) float32 array
        Gene proportions, rows sum to one.
    size_factor : (B,) array
        Total counts wanted.
    theta : (G,) or (B, G) array
        Inverse dispersions.
    seeds : (B,) uint64 array
        One seed a row.
    rng : numpy.random.Generator
        Draws the few entries with a mean above `LARGE_MEAN`.

    Returns
    -------
    data : (nnz,) uint32 array
    indices : (nnz,) int32 array
    indptr : (B + 1,) int64 array
    """
    n_cells, n_genes = rho.shape
    rho = np.ascontiguousarray(drawable(rho), dtype=np.float32)
    theta = np.ascontiguousarray(np.atleast_2d(theta), dtype=np.float64)
    size_factor = np.asarray(size_factor, dtype=np.float64)
    # Room for the worst case: only the pages that are written become real memory.
    data = np.empty(n_cells * n_genes, dtype=np.uint32)
    indices = np.empty(n_cells * n_genes, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    large = _draw_rows(rho, size_factor, theta, np.asarray(seeds, np.uint64), data, indices, indptr)
    data, indices = data[: indptr[-1]].copy(), indices[: indptr[-1]].copy()
    if large:
        at = np.flatnonzero(data == 0)  # marked by _draw_rows: an inversion draw is never stored as zero
        row = np.searchsorted(indptr, at, side="right") - 1
        column = indices[at]
        mean = size_factor[row] * rho[row, column]
        shape = theta[row if theta.shape[0] > 1 else np.zeros_like(row), column]
        with np.errstate(all="ignore"):
            rate = rng.gamma(shape, mean / shape)
        data[at] = rng.poisson(drawable(rate, LARGEST_COUNT - 1e6))  # 20 standard deviations below
        if (data[at] == 0).any():
            data, indices, indptr = _drop_zeros(data, indices, indptr)
    return data, indices, indptr


@numba.njit(cache=True, nogil=True)
def _draw_rows(
    rho: Floats, size_factor: Floats, theta: Floats, seeds: Ints, data: Ints, indices: Ints, indptr: Ints
) -> int:
    n_cells, n_genes = rho.shape
    at = 0
    large = 0
    for i in range(n_cells):
        scale = size_factor[i]
        theta_row = i if theta.shape[0] > 1 else 0
        for g in range(n_genes):
            mu = scale * rho[i, g]
            if mu > LARGE_MEAN:
                data[at] = 0
                indices[at] = g
                at += 1
                large += 1
                continue
            u = uniform(seeds[i], g)
            if u >= mu:
                continue
            shape = theta[theta_row, g]
            probability = np.exp(-shape * np.log1p(mu / shape))
            survival = 1.0 - probability  # P(x > 0)
            if u >= survival:
                continue
            ratio = mu / (mu + shape)
            k = 0
            while u < survival and k < 100_000:
                probability *= ratio * (k + shape) / (k + 1)
                k += 1
                survival -= probability
                if k > mu and probability < 1e-17:  # the rest of the tail is below what a double resolves
                    break
            data[at] = k
            indices[at] = g
            at += 1
        indptr[i + 1] = at
    return large


def _drop_zeros(data: Ints, indices: Ints, indptr: Ints) -> Csr:
    keep = data > 0
    kept = np.concatenate([[0], np.cumsum(keep)])
    return data[keep], indices[keep], kept[indptr]
