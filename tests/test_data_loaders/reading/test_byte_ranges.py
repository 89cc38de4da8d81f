"""Stores are read where the system has no reads by position, as on Windows."""

import subprocess
import sys

import pytest
from ingest_helpers import write_zarr
from small_data import small_adata

SCRIPT = """
import os, sys
del os.pread
from data_loaders import CellStream, open_atlas
for path in sys.argv[1:]:
    stream = CellStream(open_atlas(path), 16, labels=["donor"])
    print(sum(int(batch.counts["rna"].to_scipy().sum()) for batch in stream))
"""


@pytest.mark.heavy
def test_a_system_without_pread(tmp_path):
    adata = small_adata()
    write_zarr(adata, tmp_path / "a.zarr")
    adata.write_h5ad(tmp_path / "a.h5ad")
    paths = [str(tmp_path / name) for name in ("a.zarr", "a.h5ad")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(int(adata.X.sum()))] * 2, done.stderr
