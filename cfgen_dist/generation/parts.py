"""Finished shards on disk: each a file of counts and labels with a small record beside it that vouches for it."""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from cfgen_dist.generation.shard import sample_shard
from data_loaders import SparseRows
from data_loaders.files import write_whole


def part_path(parts, shard):
    """Where the counts of a shard stand."""
    return Path(parts) / f"shard-{shard:06d}.npz"


def record_path(parts, shard):
    """Where the record of a shard stands."""
    return Path(parts) / f"shard-{shard:06d}.json"


def write_part(model, shard, plan, parts, sample=sample_shard):
    """Sample a shard and commit it: counts first, then the record, each written beside, flushed to disk and renamed.

    Doing it twice, even at the same time, is harmless: both write the same bytes.

    Returns
    -------
    dict
        The record: shard, plan (digest), cells, bytes of the file, sha256 over counts and labels, and sums over rna
        that can be added over shards: nnz, counts, log_counts and log_counts_squared (of each cell's total, cells
        without counts left out).
    """
    drawn, codes = sample(model, shard, plan)
    arrays = {"codes": codes.astype(np.int32)}
    for name, matrix in drawn.items():
        arrays[_key(name, "data")] = matrix.data.astype(np.min_scalar_type(matrix.data.max(initial=0)))
        arrays[_key(name, "indices")] = matrix.indices.astype(np.uint16 if matrix.shape[1] <= 1 << 16 else np.uint32)
        arrays[_key(name, "indptr")] = matrix.indptr.astype(np.int64)
    counts = drawn["rna"]
    path = part_path(parts, shard)
    # Not compressed: the file lives until the store is put together, and zlib would take longer than the sampling.
    write_whole(path, lambda file: np.savez(file, **arrays))
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    logs = np.log(totals[totals > 0])
    record = {
        "shard": shard,
        "plan": plan.digest,
        "cells": len(codes),
        "bytes": path.stat().st_size,
        "sha256": _digest(arrays),
        "nnz": int(counts.nnz),
        "counts": int(totals.sum()),
        "log_counts": float(logs.sum()),
        "log_counts_squared": float((logs**2).sum()),
    }
    write_whole(record_path(parts, shard), lambda file: file.write(json.dumps(record).encode()))
    return record


def read_record(parts, shard, plan):
    """The record of a finished shard; None when it is not there, not of this plan, or its file is not as it says."""
    try:
        record = json.loads(record_path(parts, shard).read_text())
        same = (record["shard"], record["plan"], record["cells"]) == (shard, plan.digest, plan.shard_cells(shard))
        return record if same and part_path(parts, shard).stat().st_size == record["bytes"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_part(parts, shard, n_features, sha256):
    """Counts (modality → SparseRows) and labels (n, K) of a shard; None when its bytes are not those written.

    `n_features` names the modalities, `rna` first, and their numbers of features.
    """
    keys = [_key(name, part) for name in n_features for part in ("data", "indices", "indptr")]
    try:
        with np.load(part_path(parts, shard)) as file:
            arrays = {key: file[key] for key in [*keys, "codes"]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if _digest(arrays) != sha256:
        return None
    counts = {
        name: SparseRows(*(arrays[_key(name, part)] for part in ("data", "indices", "indptr")), n)
        for name, n in n_features.items()
    }
    return counts, arrays["codes"]


def _key(modality, part):
    """Where an array of a modality stands in the file of a shard."""
    return part if modality == "rna" else f"{modality}.{part}"


def _digest(arrays):
    """SHA-256 over counts and labels in fixed types, whatever the types on disk."""
    digest = hashlib.sha256()
    kinds = {"data": "<u4", "indices": "<u4", "indptr": "<i8", "codes": "<i4"}
    others = sorted(name for name in arrays if "." in name)
    for name in [*kinds, *others]:
        digest.update(np.ascontiguousarray(arrays[name], dtype=kinds[name.rpartition(".")[2]]))
    return digest.hexdigest()
