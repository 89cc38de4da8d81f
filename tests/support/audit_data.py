"""Cells for the tests of the audit: a low-rank law of two types and some donors, drawn as often as wanted."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

N_GENES, N_DONORS = 120, 12


def drawn(n, seed, donors=None, strength=0.0):
    """AnnData of `n` new cells, of the donors named (all by default); `strength` is how much donors differ."""
    law, rng = np.random.default_rng(0), np.random.default_rng(seed)
    loadings, means = law.normal(0, 0.5, (6, N_GENES)), law.normal(0, 1, (2, N_GENES))
    shifts = law.normal(0, strength, (N_DONORS, N_GENES)) if strength else np.zeros((N_DONORS, N_GENES))
    types, donor = rng.integers(0, 2, n), rng.choice(np.arange(N_DONORS) if donors is None else donors, n)
    levels = means[types] + rng.normal(size=(n, 6)) @ loadings + shifts[donor]
    levels = np.exp(levels - levels.max(axis=1, keepdims=True))
    counts = rng.poisson(600 * levels / levels.sum(axis=1, keepdims=True))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(["a", "b"])[types]), "donor": pd.Categorical(donor.astype(str))},
        index=[f"c{seed}-{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.int32)), obs=obs, var=var)


def atlas(n=1000, seed=1, **law):
    """As `drawn`, with an obs column `split`: 55 % train, 15 % val, 30 % test."""
    cells = drawn(n, seed, **law)
    split = np.random.default_rng(seed).choice(["train", "val", "test"], n, p=[0.55, 0.15, 0.3])
    cells.obs["split"] = pd.Categorical(split)
    return cells


def with_held_out_donors(n=1500, seed=1, strength=0.0):
    """As `atlas`, the last four donors held out whole."""
    cells = drawn(n, seed, strength=strength)
    held_out = cells.obs["donor"].astype(int) >= N_DONORS - 4
    val = np.random.default_rng(seed).random(n) < 0.1
    cells.obs["split"] = pd.Categorical(np.where(held_out, "test", np.where(val, "val", "train")))
    return cells


def leaked(real, honest, share, kept=1.0, seed=0):
    """Honest cells and a share of the training cells, each count of these kept with that probability."""
    rng = np.random.default_rng(seed)
    train = np.flatnonzero(real.obs["split"] == "train")
    planted = real[rng.choice(train, int(share * len(train)), replace=False)].copy()
    planted.X.data = rng.binomial(planted.X.data, kept).astype(np.int32)
    planted.obs_names = [f"leak-{i}" for i in range(planted.n_obs)]
    return ad.concat([honest, planted])
