"""One shard of cells: a pure function of (model, shard, plan), whoever runs it, in whatever order."""

import dataclasses

import numpy as np
import torch
from scipy import sparse

from cfgen_dist.model.guidance import PreparedVelocity, guided
from cfgen_dist.model.multimodal import branches
from cfgen_dist.model.solvers import integrate
from data_loaders.seeds import Generation, generator


@torch.inference_mode()
def sample_shard(model, shard, plan):
    """Generate the cells of a shard.

    Counts are drawn straight into CSR, a batch at a time: no dense count matrix exists.

    Parameters
    ----------
    model : CFGen
        On the plan's device.
    shard : int
    plan : Plan

    Returns
    -------
    counts : dict of str to scipy.sparse.csr_matrix (n, features), int32
        Modality → counts.
    codes : (n, K) int64 array
        Labels.
    """
    rng = generator(plan.seed, Generation.SHARD, shard)
    codes = rng.permutation(plan.shard_codes(shard))
    n = len(codes)
    z0 = rng.standard_normal((n, model.config.autoencoder.latent_dim), dtype=np.float32)
    law = dataclasses.replace(model.size_factor, kind=plan.size_factor)
    size_factor = law.draw(_category(model, law.covariate, codes), rng)
    networks = branches(model.autoencoder)
    seeds = {name: rng.integers(0, 2**64, n, dtype=np.uint64) for name in networks}
    sizes = law.draw_others(size_factor, _category(model, law.covariate, codes), rng) | {"rna": size_factor}
    theta_category = _category(model, model.config.autoencoder.theta_covariate, codes)
    blocks = {name: [] for name in networks}
    for start in range(0, n, plan.batch_size):
        rows = slice(start, start + plan.batch_size)
        z = generate_latents(model, plan, z0[rows], codes[rows], size_factor[rows])
        for name, network in networks.items():
            own = sizes[name][rows] if name in sizes else None
            blocks[name].append(network.draw(z, own, theta_category[rows], seeds[name][rows], rng))
    return {name: stacked(blocks[name], networks[name].n_genes) for name in networks}, codes


def stacked(blocks, n_features):
    """The (data, indices, indptr) of consecutive rows as one CSR matrix."""
    data, indices, indptrs = zip(*blocks, strict=True)
    lengths = np.concatenate([np.diff(indptr) for indptr in indptrs])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    data = np.concatenate(data).astype(np.int32)
    return sparse.csr_matrix((data, np.concatenate(indices), indptr), shape=(len(lengths), n_features))


def generate_latents(model, plan, z0, codes, size_factor):
    """Latents (B, D) tensor, of noise z0 (B, D), labels (B, K) and size factors (B,)."""
    given = np.log(size_factor).astype(np.float32), codes, z0
    log_size_factor, codes, z0 = (torch.from_numpy(each).to(model.device) for each in given)
    joint = model.config.flow.conditioning == "joint"
    weights = plan.weights[0] if joint else plan.weights
    field = guided(PreparedVelocity(model.velocity), codes, weights, joint, log_size_factor)
    z = integrate(field, z0, solver=plan.solver, steps=plan.steps)
    return model.velocity.restore(z)


def _category(model, covariate, codes):
    """The category of each cell of one attribute, zeros without one."""
    return codes[:, list(model.labels).index(covariate)] if covariate else np.zeros(len(codes), np.int64)
