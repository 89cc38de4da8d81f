"""The Bernoulli likelihood of 0/1 values, and its sampler.

Source: Palma et al. 2025 (CFGen), section 4.1 and appendix C. The dense part of the likelihood is one term a feature;
the rest is evaluated at the ones alone.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cfgen_dist.model.likelihoods.likelihood import Csr, Likelihood, drawable
from cfgen_dist.model.sweeps.bernoulli import sweep
from cfgen_dist.model.sweeps.blocks import Counts
from data_loaders.types import Floats, Ints
from data_loaders.uniforms import uniform


class Bernoulli(Likelihood):
    """Whether a peak is open: its probability is the sigmoid of an output of the decoder.

    One output more than there are peaks is added to the logits of all of them, so that a cell's depth need not be
    learned peak by peak.
    """

    name = "bernoulli"
    encoder_input = "binary"
    scales_with_size_factor = False
    has_sweep = True

    def n_outputs(self, n_features: int) -> int:
        """One a peak, and one for the depth of the cell."""
        return n_features + 1

    def start_bias(self, mean: Tensor, n_cells: int) -> Tensor:
        """Logits of the share of cells that a peak is open in: 1 - exp(-mean), if counts are Poisson."""
        logits = torch.expm1((mean * n_cells + 1) / n_cells).log()
        return torch.cat([logits, logits.new_zeros(1)])

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits (B, F)."""
        return outputs[:, :-1] + outputs[:, -1:]

    def nll(self, outputs: Tensor, counts: Tensor, size_factor: Tensor, log_theta: Tensor | None) -> Tensor:
        """Negative log-likelihood (B,); any count above zero is a one."""
        rows, columns = counts.nonzero(as_tuple=True)
        return bernoulli_nll(self.decode(outputs), rows, columns)

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
        depth = further[:, 0]
        loss, d_bias = sweep(logits, depth.add_(bias[-1]), bias[:-1], lines >= 0, counts, scale)
        return loss, torch.cat([d_bias, depth.sum()[None]]), None

    def draw(
        self,
        outputs: Tensor,
        size_factor: Floats | None,
        log_theta: Tensor | None,
        seeds: Ints,
        rng: np.random.Generator,
    ) -> Csr:
        """Zeros and ones; see `Likelihood.draw`."""
        return draw_bernoulli(torch.sigmoid(self.decode(outputs)).cpu().numpy(), seeds)


def bernoulli_nll(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Negative log-likelihood of 0/1 values: softplus(logit) everywhere, minus the logit where the value is 1.

    Parameters
    ----------
    logits : (B, P) tensor
    rows, columns : (nnz,) int64 tensors
        Where the ones stand.

    Returns
    -------
    (B,) tensor, nats per cell
    """
    return F.softplus(logits).sum(dim=1).index_add(0, rows, logits[rows, columns], alpha=-1)


def draw_bernoulli(probability: Floats, seeds: Ints) -> Csr:
    """Draw 0/1 values straight into CSR, each from one uniform number that is a hash of (row seed, feature).

    Parameters
    ----------
    probability : (B, P) float32 array
    seeds : (B,) uint64 array
        One seed a row.

    Returns
    -------
    data : (nnz,) uint32 array
        Ones.
    indices : (nnz,) int32 array
    indptr : (B + 1,) int64 array
    """
    probability = np.ascontiguousarray(drawable(probability), dtype=np.float32)
    n_cells, n_features = probability.shape
    # Room for the worst case: only the pages that are written become real memory.
    indices = np.empty(n_cells * n_features, dtype=np.int32)
    indptr = np.zeros(n_cells + 1, dtype=np.int64)
    _draw_rows(probability, np.asarray(seeds, np.uint64), indices, indptr)
    indices = indices[: indptr[-1]].copy()
    return np.ones(len(indices), np.uint32), indices, indptr


@numba.njit(cache=True, nogil=True)
def _draw_rows(probability: Floats, seeds: Ints, indices: Ints, indptr: Ints) -> None:
    at = 0
    for i in range(probability.shape[0]):
        for p in range(probability.shape[1]):
            if uniform(seeds[i], p) < probability[i, p]:
                indices[at] = p
                at += 1
        indptr[i + 1] = at
