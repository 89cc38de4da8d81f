"""Paired RNA and peaks of a few made-up cells, as h5ad files and as one h5mu file."""

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def paired(n=200, genes=40, peaks=60, seed=0):
    """Two AnnData with the same cells: three types that differ in both modalities."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 3, n)
    profile = rng.gamma(1.0, 1.0, (3, genes)) + 0.1
    rna = rng.poisson(profile[types] * rng.lognormal(0, 0.3, (n, 1)))
    rna[:, 0] += 1
    openness = rng.beta(0.7, 2.0, (3, peaks))
    atac = (rng.random((n, peaks)) < openness[types]) * rng.choice([1, 1, 1, 2], (n, peaks))
    atac[:, 0] = 1
    names = [f"cell{i}" for i in range(n)]
    obs = pd.DataFrame({"cell_type": pd.Categorical([f"type{k}" for k in types]), "donor": rng.choice(["a", "b"], n)})
    first = ad.AnnData(csr_matrix(rna.astype(np.float32)), obs=obs.set_index(pd.Index(names)))
    second = ad.AnnData(csr_matrix(atac.astype(np.float32)), obs=pd.DataFrame(index=names))
    first.var_names = [f"gene{i}" for i in range(genes)]
    second.var_names = [f"chr1:{i}-{i + 9}" for i in range(peaks)]
    return first, second


def write_pair(folder, **options):
    """Paths of rna.h5ad and atac.h5ad; the second has its cells in another order."""
    rna, atac = paired(**options)
    order = np.random.default_rng(1).permutation(atac.n_obs)
    rna.write_h5ad(folder / "rna.h5ad")
    atac[order].copy().write_h5ad(folder / "atac.h5ad")
    return folder / "rna.h5ad", folder / "atac.h5ad"
