"""The cells of a plan as one AnnData, without a file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.generation.store import feature_tables, generated_obs, provenance
from cfgen_dist.workers.threads import map_threads

if TYPE_CHECKING:
    from cfgen_dist.bundle import CFGen
    from cfgen_dist.generation.plan import Plan


def sample_in_memory(model: CFGen, plan: Plan) -> ad.AnnData:
    """The cells of a plan as one AnnData, rows as `generate` would write them."""
    results = dict(map_threads(partial(sample_shard, plan=plan), range(plan.n_shards), partial(model.to, plan.device)))
    shards = [results[shard] for shard in range(plan.n_shards)]
    obs = pd.concat([generated_obs(model, codes, i) for i, (_, codes) in enumerate(shards)])
    counts = {name: sparse.vstack([part[name] for part, _ in shards], format="csr") for name in shards[0][0]}
    rna = counts.pop("rna")
    obs["size_factor"] = np.asarray(rna.sum(axis=1)).ravel().astype(np.float32)
    for name, matrix in counts.items():
        obs[f"size_factor_{name}"] = np.asarray(matrix.sum(axis=1)).ravel().astype(np.float32)
    var = pd.DataFrame(index=pd.Index(model.genes, name="gene"))
    uns: dict[str, Any] = {"generation": provenance(model, {"plan": plan.to_dict()})}
    uns |= {"features": feature_tables(model)} if counts else {}
    return ad.AnnData(rna, obs=obs, var=var, obsm=counts, uns=uns)
