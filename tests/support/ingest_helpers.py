"""What the tests of sources share: ingest and read back, or be refused and leave nothing behind."""

import warnings

import anndata as ad
import pytest

from data_loaders import BadInput, ingest


def ingested(tmp_path, source, **options):
    options = {"min_cells": 0} | options
    card = ingest(source, tmp_path / "out.zarr", **options)
    return ad.read_zarr(tmp_path / "out.zarr"), card


def write_zarr(adata, path, version=2):
    with ad.settings.override(zarr_write_format=version, auto_shard_zarr_v3=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about defaults to come
        adata.write_zarr(path)
    (path / ".zmetadata").unlink(missing_ok=True)  # a copy of all metadata that would hide what tests change


def refused(tmp_path, source, **options):
    """The one-line message, after making sure that nothing is left behind."""
    before = set(tmp_path.iterdir())
    with pytest.raises(BadInput) as caught:
        ingest(source, tmp_path / "out.zarr", **({"min_cells": 0} | options))
    assert set(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)
