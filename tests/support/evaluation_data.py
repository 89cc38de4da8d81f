"""Cells for the tests of the evaluation: real ones that scanpy ships, and splits of them."""

import math
import warnings
from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse
from sklearn.model_selection import train_test_split

from cfgen_dist.evaluation import independent_genes, stages


def pbmc68k():
    """700 real cells x 765 genes as raw counts, obs: cell_type (10) and split (20 % test)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = sc.datasets.pbmc68k_reduced()
    counts = sparse.csr_matrix(source.raw.X, dtype=np.float64)
    counts.data = np.rint(
        np.expm1(counts.data) * np.repeat(source.obs["n_counts"].to_numpy() / 1e4, np.diff(counts.indptr))
    )
    counts.eliminate_zeros()
    obs = pd.DataFrame({"cell_type": source.obs["bulk_labels"].astype(str).astype("category")}, index=source.obs_names)
    var = pd.DataFrame(index=source.raw.var_names.astype(str))
    return with_split(ad.AnnData(counts.astype(np.int32), obs=obs, var=var))


def with_split(cells, seed=0, label="cell_type"):
    """The same cells with an obs column `split`: 20 % test, stratified by type."""
    _, test = train_test_split(np.arange(cells.n_obs), test_size=0.2, stratify=cells.obs[label], random_state=seed)
    cells.obs["split"] = pd.Categorical(np.where(np.isin(np.arange(cells.n_obs), test), "test", "train"))
    return cells


def of_split(cells, split, label="cell_type"):
    """Counts and labels of the cells of a split."""
    chosen = cells[cells.obs["split"] == split]
    return chosen.X.tocsr(), chosen.obs[label].astype(str).to_numpy()


def generated(cells, sets=3, seed=0, label="cell_type"):
    """AnnData of `sets` times as many cells as there are test cells, their genes independent within types."""
    counts, labels = of_split(cells, "train", label)
    wanted = {kind: sets * n for kind, n in Counter(of_split(cells, "test", label)[1].tolist()).items()}
    counts, labels = independent_genes(counts, labels, wanted, np.random.default_rng(seed))
    names = [f"generated-{i}" for i in range(len(labels))]
    obs = pd.DataFrame({label: pd.Categorical(labels), "is_generated": True}, index=names)
    return ad.AnnData(counts, obs=obs, var=cells.var[[]])


def same(one, other, path=""):
    """Whether two results have the same numbers, to 1e-9."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        return all(same(one[key], other[key], f"{path}/{key}") for key in one)
    if isinstance(one, list):
        assert len(one) == len(other), path
        return all(same(a, b, f"{path}/{i}") for i, (a, b) in enumerate(zip(one, other, strict=True)))
    close = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) if isinstance(one, float) else one == other
    assert close, (path, one, other)
    return True


def count_items(monkeypatch):
    """The items that are done from now on."""
    items = []
    do_item = stages.do_item
    monkeypatch.setattr(stages, "do_item", lambda work, item: (items.append(item), do_item(work, item)))
    return items
