"""One shard of cells: a pure function of (model, plan, shard), whoever runs it, in whatever order."""

import numpy as np
import torch
from scipy import sparse

from cfgen_dist.model.negative_binomial import draw
from cfgen_dist.model.solvers import integrate
from cfgen_dist.model.velocity import guided

SHARD = 1  # the purpose of the seed; 0 belongs to the plan


@torch.inference_mode()
def sample_shard(model, plan, shard):
    """Generate the cells of a shard.

    Counts are drawn straight into CSR, a batch at a time: no dense count matrix exists.

    Parameters
    ----------
    model : CFGen
    plan : Plan
    shard : int

    Returns
    -------
    counts : scipy.sparse.csr_matrix (n, G), int32
    codes : (n, K) int64 array
        Labels.
    """
    rng = np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=(SHARD, shard)))
    codes = rng.permutation(plan.shard_codes(shard))
    n = len(codes)
    z0 = rng.standard_normal((n, model.config.autoencoder.latent_dim), dtype=np.float32)
    size_factor = model.size_factor.draw(_category(model, model.size_factor.covariate, codes), rng)
    seeds = rng.integers(0, 2**64, n, dtype=np.uint64)
    theta_category = _category(model, model.config.autoencoder.theta_covariate, codes)
    blocks = []
    for start in range(0, n, plan.batch_size):
        rows = slice(start, start + plan.batch_size)
        rho = generate_profiles(model, plan, z0[rows], codes[rows], size_factor[rows])
        theta = model.autoencoder.dispersion(torch.from_numpy(theta_category[rows])).exp().numpy()
        blocks.append(draw(rho, size_factor[rows], theta, seeds[rows], rng))
    data, indices, indptrs = zip(*blocks, strict=True)
    lengths = np.concatenate([np.diff(indptr) for indptr in indptrs])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.concatenate(data).astype(np.int32)
    counts = sparse.csr_matrix((data, np.concatenate(indices), indptr), shape=(n, len(model.genes)))
    return counts, codes


def generate_profiles(model, plan, z0, codes, size_factor):
    """Gene proportions rho (B, G) float32 array, of noise z0 (B, D), labels (B, K) and size factors (B,)."""
    log_size_factor = torch.from_numpy(np.log(size_factor).astype(np.float32))
    joint = model.config.flow.conditioning == "joint"
    weights = plan.weights[0] if joint else plan.weights
    field = guided(model.velocity, torch.from_numpy(codes), weights, joint, log_size_factor)
    z = integrate(field, torch.from_numpy(z0), solver=plan.solver, steps=plan.steps)
    return model.autoencoder.decode(model.velocity.restore(z)).exp().numpy()


def _category(model, covariate, codes):
    """The category of each cell of one attribute, zeros without one."""
    return codes[:, list(model.labels).index(covariate)] if covariate else np.zeros(len(codes), np.int64)
