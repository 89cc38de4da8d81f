"""Stores that were written before there were manifests stay readable.

`support/old_atlas.zip` was written in November 2026 by `simulate(path, cells=40, genes=8, types=2, donors=2,
density=0.4, seed=0)` of that time, one version before the checksums of files.
"""

import hashlib
import zipfile
from pathlib import Path

import anndata
import numpy as np
import pytest

from data_loaders import CellStream, export, ingest, open_atlas
from data_loaders.card import read_card

COUNTS = "29ea5e9b08ee806117a7e95444566f69086056227c7de8316fb72c6635a6ac07"
FINGERPRINT = "defd1f8f764e9c87c2efe3800f5e5175c1c37118bb37600744be03d52860ca7c"


@pytest.fixture
def old(tmp_path):
    with zipfile.ZipFile(Path(__file__).parents[1] / "support" / "old_atlas.zip") as file:
        file.extractall(tmp_path)
    return tmp_path / "old.zarr"


def digest(counts):
    return hashlib.sha256(counts.toarray().astype("<i8").tobytes()).hexdigest()


def test_an_old_atlas_is_read(old):
    atlas = open_atlas(old)
    assert digest(atlas.read(np.arange(40)).to_scipy()) == COUNTS
    assert atlas.card == read_card(old)
    assert (atlas.labels, atlas.fingerprint, atlas.contents) == (["cell_type", "donor"], FINGERPRINT, None)
    assert atlas.is_shuffled
    assert atlas.has_size_factor
    np.testing.assert_array_equal(atlas.size_factor, atlas.read(np.arange(40)).row_sums())
    atlas.check_files()
    assert sum(len(batch) for batch in CellStream(atlas, 10, split="train")) == len(atlas.rows(split="train"))


def test_an_old_atlas_is_exported_and_ingested(old, tmp_path):
    export(old, tmp_path / "a.h5ad")
    assert digest(anndata.read_h5ad(tmp_path / "a.h5ad").X) == COUNTS
    ingest([old], tmp_path / "new.zarr", labels=["cell_type"], min_cells=0, keep_order=True)
    new = open_atlas(tmp_path / "new.zarr")
    assert digest(new.read(np.arange(40)).to_scipy()) == COUNTS
    assert new.contents is not None
