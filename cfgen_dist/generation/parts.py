"""Finished shards on disk: the counts and labels of each as a part of a ledger, with sums that can be added up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from cfgen_dist.workers.parts import Ledger
from data_loaders import SparseRows
from data_loaders.types import Array, Ints

if TYPE_CHECKING:
    from cfgen_dist.bundle import CFGen

Sampler: TypeAlias = "Callable[[CFGen, int, Any], tuple[dict[str, sparse.csr_matrix], Ints]]"  # model, shard, plan
COMPONENTS = ("data", "indices", "indptr")


def part_name(shard: int) -> str:
    """Name of the part that a shard is."""
    return f"shard-{shard:06d}"


def write_part(model: CFGen, shard: int, plan: Any, ledger: Ledger, sample: Sampler) -> dict[str, Any]:
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
    counts = drawn["rna"]
    return ledger.commit(
        part_name(shard),
        arrays,
        cells=len(codes),
        sha256=_digest(arrays),
        nnz=int(counts.nnz),
        counts=int(counts.sum(dtype=np.float64)),
    )


def read_part(ledger: Ledger, shard: int, n_features: Mapping[str, int]) -> tuple[dict[str, SparseRows], Ints] | None:
    """Counts (modality → SparseRows) and labels (n, K) of a shard; None when its bytes are not those written.

    `n_features` names the modalities, `rna` first, and their numbers of features.
    """
    arrays = ledger.whole_arrays(part_name(shard))
    if arrays is None:
        return None
    counts = {
        name: SparseRows(*(arrays[_key(name, component)] for component in COMPONENTS), n)
        for name, n in n_features.items()
    }
    return counts, arrays["codes"]


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
