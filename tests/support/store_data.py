"""Stores in the layouts of others, for the tests of reading."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from data_loaders import AtlasWriter
from data_loaders.manifest import ELEMENT

COMPRESSORS = {
    "none": None,
    "blosc": [BloscCodec(cname="lz4")],
    "zstd": [ZstdCodec(level=1)],
    "gzip": [GzipCodec(level=1)],
    "zstd with checksum": [ZstdCodec(level=1), Crc32cCodec()],
    "two codecs": [GzipCodec(level=1), ZstdCodec(level=1)],  # read through Zarr
}


def random_counts(n=500, g=60, seed=0, density=0.2, dtype=np.uint16):
    """CSR counts with a few empty rows."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 300, (n, g)) * (rng.random((n, g)) < density)
    counts[rng.integers(0, n, n // 50)] = 0
    return scipy.sparse.csr_matrix(counts.astype(dtype))


def cells(n, seed=0):
    """Obs of n cells."""
    rng = np.random.default_rng(seed)
    columns = {
        "cell_type": pd.Categorical(rng.choice(["b", "nk", "t"], n)),
        "batch": rng.choice(["x", "y"], n).astype(object),
        "age": rng.integers(20, 90, n),
        "split": pd.Categorical(rng.choice(["test", "train"], n)),
    }
    return pd.DataFrame(columns, index=[f"cell{i}" for i in range(n)])


def genes(g, first=0):
    """Var of g genes, numbered from `first`."""
    return pd.DataFrame(index=[f"gene{i}" for i in range(first, first + g)])


def write_anndata(path, counts, *, obs=None, var=None, **parts):
    """AnnData-Zarr as anndata writes it (format 2 by default)."""
    obs = cells(counts.shape[0]) if obs is None else obs
    var = genes(counts.shape[1]) if var is None else var
    anndata.AnnData(counts, obs, var, **parts).write_zarr(path)
    return path


def rewrite_matrix(path, counts, *, zarr_format, chunk, shard=None, compressors="auto", dtype=None):
    """Replace X of a store by the same matrix in another layout."""
    old = zarr.open_group(path, mode="r+")
    if old.metadata.zarr_format != zarr_format:
        raise ValueError("the layout has to be of the format of the store")
    attributes = dict(old["X"].attrs)
    del old["X"]
    group = old.create_group("X", attributes=attributes)
    for name, values in (("data", counts.data), ("indices", counts.indices), ("indptr", counts.indptr)):
        values = values.astype(dtype or values.dtype) if name == "data" else values
        step = chunk if name != "indptr" else 64
        options = {"compressors": compressors}
        if shard is not None and name != "indptr":
            options["shards"] = (shard,)
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(step,), **options)
        array[:] = values
    zarr.consolidate_metadata(path)


def write_v3(path, counts, *, chunk=1000, shard=None, compressors="auto", dtype=None):
    """AnnData-Zarr of format 3 with X in a chosen layout."""
    old = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = 3
    try:
        write_anndata(path, counts)
    finally:
        anndata.settings.zarr_write_format = old
    rewrite_matrix(path, counts, zarr_format=3, chunk=chunk, shard=shard, compressors=compressors, dtype=dtype)
    return path


def write_atlas(path, counts, seed=0):
    """A store as this project writes it."""
    keep = np.flatnonzero(np.diff(counts.indptr))
    obs = cells(counts.shape[0], seed).iloc[keep].drop(columns="split")
    with AtlasWriter(path, genes(counts.shape[1]), labels=["cell_type"]) as writer:
        writer.append(counts[keep], obs)
        writer.close()
    return counts[keep]


def without_manifest(store):
    """Take the manifest out of a store, as if it had been written before there were any."""
    shutil.rmtree(store / "uns" / ELEMENT)
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["sealed"]
    (store / "zarr.json").write_text(json.dumps(root))
