"""From a store to a TileDB-SOMA experiment: counts slice by slice, obs and var as tables."""

import logging

import anndata as ad
import numpy as np
from scipy import sparse

from data_loaders.errors import BadInput
from data_loaders.progress import progress
from data_loaders.reading.atlas import open_atlas
from data_loaders.types import PathLike

log = logging.getLogger("data_loaders")
ROWS = 16_384  # cells written at a time; each write is a fragment, and SOMA reads few large ones best
MEASUREMENT = "RNA"


def write_soma(store: PathLike, out: PathLike) -> None:
    """Write an atlas as a SOMA experiment with one measurement, `RNA`, its counts in the layer `data`.

    Parameters
    ----------
    store : path-like
        Anything that `open_atlas` opens.
    out : path-like
        Folder to fill; a sibling of the name it gets when whole.

    Raises
    ------
    BadInput
        tiledbsoma is not installed, or the store cannot be opened or has dense values.
    """
    try:
        import pyarrow as pa
        import tiledbsoma
        import tiledbsoma.io
    except ImportError:
        raise BadInput("`to='soma'`: tiledbsoma is not installed; pip install 'cfgen-dist[soma]'") from None
    atlas = open_atlas(store)
    if len(atlas.modalities) > 1:
        left_out = ", ".join(atlas.modalities[1:])
        log.warning("%s: %s left out: SOMA gets rna alone, h5mu has all modalities", atlas.name, left_out)
    obs = {name: atlas.obs(name) for name in atlas.obs_columns}
    kind = atlas.read_sparse(np.arange(min(atlas.n_cells, 1))).data.dtype  # the store's type of counts
    empty = sparse.csr_matrix((atlas.n_cells, atlas.n_genes), dtype=kind)
    tables = ad.AnnData(empty, var=atlas.var)
    tables.obs_names = atlas.obs_names()
    tables.obs = tables.obs.assign(**obs)
    # Tables and an empty layer, in SOMA's own conventions; then the counts, which are never in memory at once.
    uri = str(out)
    tiledbsoma.io.from_anndata(uri, tables, measurement_name=MEASUREMENT, X_layer_name="data")
    with (
        tiledbsoma.SparseNDArray.open(f"{uri}/ms/{MEASUREMENT}/X/data", "w") as layer,
        progress("write counts", atlas.n_cells, "cells") as advance,
    ):
        for start in range(0, atlas.n_cells, ROWS):
            rows = np.arange(start, min(start + ROWS, atlas.n_cells))
            counts = atlas.read_sparse(rows)
            columns = {
                "soma_dim_0": np.repeat(rows, np.diff(counts.indptr)),
                "soma_dim_1": np.asarray(counts.indices).astype(np.int64),
                "soma_data": np.asarray(counts.data).astype(kind),
            }
            layer.write(pa.table(columns))
            advance(len(rows))
