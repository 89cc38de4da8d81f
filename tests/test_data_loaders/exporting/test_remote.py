"""Export from a bucket and to a bucket."""

import anndata as ad
import mudata
import numpy as np
import pytest

from cfgen_dist.cli import main
from data_loaders import BadInput, export, open_atlas, simulate
from data_loaders.storage import place

SMALL = {"cells": 200, "genes": 30, "types": 2, "donors": 2, "density": 0.3}


def test_h5ad_and_h5mu(bucket, tmp_path, caplog):
    store = f"{bucket.url}/a.zarr"
    simulate(store, peaks=10, **SMALL)
    simulate(tmp_path / "a.zarr", peaks=10, **SMALL)
    with caplog.at_level("INFO", "data_loaders"):
        for kind in ("h5ad", "h5mu"):
            export(store, f"{bucket.url}/out/a.{kind}", to=kind)
            export(tmp_path / "a.zarr", tmp_path / f"b.{kind}", to=kind)
            place(f"{bucket.url}/out/a.{kind}").download(tmp_path / f"a.{kind}")
    one, two = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in "ab")
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)
    assert list(mudata.read_h5mu(tmp_path / "a.h5mu").mod) == ["rna", "atac"]
    assert "out/a.h5ad: written to a temporary file, and copied there" in caplog.text
    assert bucket.keys("out/") == ["out/a.h5ad", "out/a.h5mu"]
    with pytest.raises(BadInput, match=f"{bucket.url}/out/a.h5ad: exists already"):
        export(store, f"{bucket.url}/out/a.h5ad")
    with pytest.raises(BadInput, match=f"{bucket.url}/none.zarr: no AnnData-Zarr store there"):
        export(f"{bucket.url}/none.zarr", tmp_path / "c.h5ad")


@pytest.mark.heavy
def test_soma_is_written_and_read_in_a_bucket(bucket, tmp_path):
    """By TileDB's own means, with the options of `--storage`."""
    simulate(tmp_path / "a.zarr", **SMALL)
    assert main(["export", str(tmp_path / "a.zarr"), f"{bucket.url}/x/a.soma", "--to", "soma"]) == 0
    assert all(key.startswith("x/a.soma/") for key in bucket.keys("x"))
    one, two = open_atlas(f"{bucket.url}/x/a.soma"), open_atlas(tmp_path / "a.zarr")
    rows = np.arange(two.n_cells)
    assert (one.read(rows).to_scipy() != two.read(rows).to_scipy()).nnz == 0
    assert main(["ingest", f"{bucket.url}/x/a.soma", f"{bucket.url}/b.zarr", "--min-cells", "1", "--drop-empty"]) == 0
    assert open_atlas(f"{bucket.url}/b.zarr").n_cells == two.n_cells
    with pytest.raises(BadInput, match="exists already"):
        export(tmp_path / "a.zarr", f"{bucket.url}/x/a.soma", to="soma")
