"""One shard of cells: a pure function of (model, shard, plan), whoever runs it, in whatever order."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from cfgen_dist.generation.unseen import Borrowed, Lender, carry
from cfgen_dist.generation.weights import acting_codes
from cfgen_dist.model.likelihoods.likelihood import LARGEST_COUNT
from cfgen_dist.model.multimodal import branches
from data_loaders.errors import BadInput
from data_loaders.seeds import Generation, generator
from data_loaders.types import Array, Floats, Ints

if TYPE_CHECKING:
    from cfgen_dist.generation.plan import Plan
    from cfgen_dist.model.trained import TrainedModel

Rows = tuple[Array, Array, Array]  # data, indices, indptr of consecutive rows of a CSR matrix


@torch.inference_mode()
def sample_shard(model: TrainedModel, shard: int, plan: Plan) -> tuple[dict[str, sparse.csr_matrix], Ints]:
    """Generate the cells of a shard.

    Counts are drawn straight into CSR, a batch at a time: no dense count matrix exists.

    Parameters
    ----------
    model : TrainedModel
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
    lent = None
    if plan.unseen == "transfer":
        lent = Lender(model).borrow(codes, generator(plan.seed, Generation.TRANSFER, shard).random(n))
        size_factor *= np.exp(lent.log_scale)
    networks = branches(model.autoencoder)
    seeds = {name: rng.integers(0, 2**64, n, dtype=np.uint64) for name in networks}
    sizes = law.draw_others(size_factor, _category(model, law.covariate, codes), rng) | {"rna": size_factor}
    theta_category = _category(model, model.config.autoencoder.theta_covariate, codes)
    acting = acting_codes(model, plan.weights, codes)
    blocks: dict[str, list[Rows]] = {name: [] for name in networks}
    for start in range(0, n, plan.batch_size):
        rows = slice(start, start + plan.batch_size)
        z = generate_latents(model, plan, z0[rows], codes[rows], size_factor[rows], lent and lent.take(rows))
        shifts = model.shifts(acting[rows])
        for name, network in networks.items():
            size = sizes[name][rows] if name in sizes else None
            drawn = network.draw(z, size, theta_category[rows], seeds[name][rows], rng, shifts.get(name))
            blocks[name].append(drawn)
    return {name: stacked(blocks[name], networks[name].n_genes) for name in networks}, codes


def stacked(blocks: list[Rows], n_features: int) -> sparse.csr_matrix:
    """The (data, indices, indptr) of consecutive rows as one CSR matrix."""
    data, indices, indptrs = zip(*blocks, strict=True)
    lengths = np.concatenate([np.diff(indptr) for indptr in indptrs])
    values = np.concatenate(data)
    if values.max(initial=0) > LARGEST_COUNT:
        raise BadInput(f"a count of {values.max():,} was drawn, above {LARGEST_COUNT:,}: lower the guidance")
    values = values.astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((values, np.concatenate(indices), starts), shape=(len(lengths), n_features))


def generate_latents(
    model: TrainedModel, plan: Plan, z0: Floats, codes: Ints, size_factor: Floats, lent: Borrowed | None
) -> torch.Tensor:
    """Latents of cells.

    Parameters
    ----------
    model : TrainedModel
    plan : Plan
    z0 : (B, D) float32 array
        Noise.
    codes : (B, K) int64 array
        Labels.
    size_factor : (B,) float64 array
    lent : Borrowed, optional
        What cells of combinations never seen borrow: these follow a field of their own.

    Returns
    -------
    (B, D) tensor
    """
    noise = torch.from_numpy(z0).to(model.device)
    logs = torch.from_numpy(np.log(size_factor).astype(np.float32)).to(model.device)
    z = carry(model, plan.weights, codes, logs, lent, noise, solver=plan.solver, steps=plan.steps)
    return model.velocity.restore(z)


def _category(model: TrainedModel, covariate: str | None, codes: Ints) -> Ints:
    """The category of each cell of one attribute, zeros without one."""
    return codes[:, list(model.labels).index(covariate)] if covariate else np.zeros(len(codes), np.int64)
