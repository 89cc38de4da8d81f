"""Finished shards: the counts and labels of each as a part of a ledger, with sums that can be added up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from cfgen_dist.workers.parts import Ledger, PartRecord
from data_loaders import SparseRows
from data_loaders.records import Sha256, Whole
from data_loaders.types import Array, Ints

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

Sampler: TypeAlias = (
    "Callable[[TrainedModel, int, Any], tuple[dict[str, sparse.csr_matrix], Ints]]"  # model, shard, plan
)
COMPONENTS = ("data", "indices", "indptr")
Part = tuple[dict[str, SparseRows], Ints, dict[str, Any]]  # counts by modality, labels, record


class ShardRecord(PartRecord):
    """The form of the record of a shard."""

    bytes: Whole
    file_sha256: Sha256
    cells: Whole
    sha256: Sha256
    nnz: Whole
    counts: Whole


def part_name(shard: int) -> str:
    """Name of the part that a shard is."""
    return f"shard-{shard:06d}"


def shard_of(part: str) -> int | None:
    """The shard that a part is; None if it is none."""
    digits = part.removeprefix("shard-")
    return int(digits) if digits.isascii() and digits.isdigit() and part == part_name(int(digits)) else None


def write_part(model: TrainedModel, shard: int, plan: Any, ledger: Ledger, sample: Sampler) -> dict[str, Any]:
    """Sample a shard and commit it. Doing it twice, even at the same time, is harmless: both write the same bytes.

    Returns
    -------
    dict
        The record. Beside what `Ledger.commit` says: `cells`, `sha256` over counts and labels whatever their types on
        disk, and of rna `nnz` (values that are not zero) and `counts` (their sum).
    """
    drawn, codes = sample(model, shard, plan)
    arrays = {"codes": codes.astype(np.int32)}
    for name, matrix in drawn.items():
        arrays[_key(name, "data")] = matrix.data.astype(np.min_scalar_type(matrix.data.max(initial=0)))
        arrays[_key(name, "indices")] = matrix.indices.astype(np.uint16 if matrix.shape[1] <= 1 << 16 else np.uint32)
        arrays[_key(name, "indptr")] = matrix.indptr.astype(np.int64)
    return ledger.commit(part_name(shard), arrays, **_facts(arrays))


def read_part(ledger: Ledger, shard: int, n_features: Mapping[str, int], again: bool = False) -> Part | None:
    """Counts (modality → SparseRows), labels (n, K) and record of a shard; None when its bytes are not those written.

    `n_features` names the modalities, `rna` first, and their numbers of features. With `again`, what the record says of
    the counts is taken from the counts again, and a record that was changed does not count.
    """
    found = ledger.whole(part_name(shard))
    if found is None:
        return None
    record, arrays = found
    counts = {}
    try:
        for name, n in n_features.items():
            data, indices, indptr = (arrays[_key(name, component)] for component in COMPONENTS)
            counts[name] = SparseRows(data, indices, indptr, n)
        facts = _facts(arrays) if again else {}
    except (KeyError, ValueError, TypeError):
        return None
    return (counts, arrays["codes"], record) if record.items() >= facts.items() else None


def _facts(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What the record of a shard says of its counts."""
    data = arrays["data"]
    return {
        "cells": len(arrays["codes"]),
        "sha256": _digest(arrays),
        "nnz": len(data),
        "counts": int(data.sum(dtype=np.float64)),
    }


def _key(modality: str, component: str) -> str:
    """Where an array of a modality stands in the file of a shard."""
    return component if modality == "rna" else f"{modality}.{component}"


def _digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 over counts and labels in fixed types, whatever the types on disk."""
    digest = hashlib.sha256()
    kinds = {"data": "<u4", "indices": "<u4", "indptr": "<i8", "codes": "<i4"}
    others = sorted(name for name in arrays if "." in name)
    for name in [*kinds, *others]:
        array = np.ascontiguousarray(arrays[name], dtype=kinds[name.rpartition(".")[2]])
        digest.update(array)  # type: ignore[arg-type]  # numpy's types know buffers from Python 3.12 on
    return digest.hexdigest()
