"""Everything once, on real counts that come with scanpy: ingest, train, generate, evaluate, in about two minutes."""

import logging
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from scipy import sparse

from cfgen_dist.config import load_config
from cfgen_dist.evaluation.run import evaluate
from cfgen_dist.generation.run import generate
from cfgen_dist.training.run import train
from data_loaders import ingest
from data_loaders.errors import BadInput
from data_loaders.files import refuse_address

log = logging.getLogger("cfgen_dist")

# 700 cells want a short training: what more steps gain is less than the noise of 140 test cells.
SETTINGS = {"autoencoder.max_epochs": 60, "flow.max_steps": 1000, "flow.batch_size": 128}
SETS = 3


def demo_counts() -> ad.AnnData:
    """The counts behind `scanpy.datasets.pbmc68k_reduced` (Zheng et al. 2017), 700 cells x 765 genes, 10 cell types.

    Its `raw` holds log1p of counts scaled to 10,000 per cell, rounded to three decimals; with the cell's total the
    counts come back exactly.

    Returns
    -------
    anndata.AnnData
        Integer CSR counts; `cell_type` in obs.

    Raises
    ------
    ValueError
        A recovered value is not close to a whole number: the data set is not the one expected.
    """
    reduced = sc.datasets.pbmc68k_reduced()
    scaled = sparse.csr_matrix(reduced.raw.X)
    totals = np.repeat(reduced.obs["n_counts"].to_numpy(), np.diff(scaled.indptr))
    values = np.expm1(scaled.data.astype(np.float64)) * totals / 1e4
    off = np.abs(values - np.rint(values)).max()
    if off > 0.25:  # rounding to three decimals moves a value by at most 0.13
        raise ValueError(f"pbmc68k_reduced: a recovered count is {off:.2f} from a whole number, expected at most 0.13")
    counts = sparse.csr_matrix((np.rint(values).astype(np.int32), scaled.indices, scaled.indptr), shape=scaled.shape)
    counts.eliminate_zeros()
    obs = reduced.obs[["bulk_labels"]].rename(columns={"bulk_labels": "cell_type"})
    return ad.AnnData(counts, obs=obs, var=reduced.raw.var[[]].copy())


def demo(out: str | Path) -> Path:
    """Run the whole road into the folder `out` and return the path of the report.

    An earlier demo in `out` is replaced; any other folder is left alone.

    Parameters
    ----------
    out : path-like

    Returns
    -------
    Path

    Raises
    ------
    BadInput
        The folder holds something that is not an earlier demo.
    """
    refuse_address(out)
    out = Path(out)
    mark = out / ".cfgen-demo"
    if out.exists():
        if any(out.iterdir()) and not mark.exists():
            raise BadInput(f"{out} is not empty and not an earlier demo: give another `out`")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    mark.touch()
    log.info("1/4 ingest: 700 real blood cells that come with scanpy")
    counts = out / "pbmc68k_reduced.h5ad"
    demo_counts().write_h5ad(counts)
    card = ingest([counts], out / "atlas.zarr", labels=["cell_type"], min_cells=3)
    log.info("2/4 train: autoencoder, latents, flow")
    train(out / "atlas.zarr", out / "run", load_config(overrides=SETTINGS))
    log.info("3/4 generate: %d sets as large as the atlas", SETS)
    generate(out / "run", out / "generated.zarr", SETS * card["n_cells"])
    log.info("4/4 evaluate against held-out cells")
    evaluate(out / "atlas.zarr", out / "generated.zarr", out / "report", sets=SETS, embedding="pca", run=out / "run")
    return out / "report" / "report.html"
