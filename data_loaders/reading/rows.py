"""Some rows of a matrix in memory: `SparseRows` for counts, `DenseRows` for latents, used alike."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from data_loaders.parallel import CORES, run_all
from data_loaders.reading.buffers import Buffers
from data_loaders.types import Floats, Ints

if TYPE_CHECKING:
    import torch
    from scipy import sparse

ArrayOrTensor: TypeAlias = Any  # a NumPy array as a reader returns it; a torch tensor after `.to(device)`
Device: TypeAlias = "str | torch.device"

DENSE_BYTES = 16 << 20  # dense rows that are worth a thread
_buffers = Buffers()


def _renew_buffers() -> None:
    """Let a forked child have buffers of its own: a thread of the parent may have held the lock."""
    global _buffers
    _buffers = Buffers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_buffers)


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of a sparse matrix of counts, in the small integer types of the store.

    Parameters
    ----------
    data : array (nnz,)
        Counts, row after row.
    indices : array (nnz,)
        Column of each count. They increase within a row as they do in the store.
    indptr : int64 array (B + 1,)
        Row i is `data[indptr[i]:indptr[i + 1]]`.
    n_features : int
        Number of columns.

    Notes
    -----
    The arrays are NumPy arrays as a reader returns them, and torch tensors after `.to(device)`.
    """

    data: ArrayOrTensor
    indices: ArrayOrTensor
    indptr: ArrayOrTensor
    n_features: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self), self.n_features

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return int(self.data.nbytes + self.indices.nbytes + self.indptr.nbytes)

    def __getitem__(self, rows: slice) -> SparseRows:
        """Consecutive rows, `rows` a slice with step 1; no counts are copied."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"slices of rows have step 1, not {step}; take() picks any rows")
        indptr = self.indptr[start : max(start, stop) + 1]
        first, last = int(indptr[0]), int(indptr[-1])
        return SparseRows(self.data[first:last], self.indices[first:last], indptr - first, self.n_features)

    def take(self, rows: Ints) -> SparseRows:
        """Any rows in any order, repeated where `rows` repeats; copied."""
        from data_loaders.reading.kernels import gather_rows

        indptr = offsets(np.diff(self.indptr)[rows])
        data, indices = (_buffers.empty(indptr[-1], part.dtype) for part in (self.data, self.indices))
        gather_rows(self.data, self.indices, self.indptr, rows, data, indices, indptr)
        return SparseRows(data, indices, indptr, self.n_features)

    def row_sums(self) -> Floats:
        """Sum of the counts of each row, float64 (B,)."""
        from data_loaders.reading.kernels import sum_rows

        return sum_rows(np.asarray(self.data), np.asarray(self.indptr))

    def to_scipy(self) -> sparse.csr_matrix:
        """`scipy.sparse.csr_matrix` (B, n_features) of the same counts; columns become int32."""
        import scipy.sparse

        indices = np.asarray(self.indices).astype(np.int32)
        return scipy.sparse.csr_matrix((np.asarray(self.data), indices, np.asarray(self.indptr)), shape=self.shape)

    def to(self, device: Device, non_blocking: bool = True) -> SparseRows:
        """The same rows as torch tensors on `device`: what crosses the bus is sparse and small."""
        data, indices, indptr = (
            as_tensor(part, device, non_blocking) for part in (self.data, self.indices, self.indptr)
        )
        return SparseRows(data, indices, indptr, self.n_features)

    def to_dense(self, device: Device | None = None) -> torch.Tensor:
        """float32 tensor (B, n_features), densified on `device` (default: where the rows are)."""
        import torch

        target = torch.device(device or _device_of(self.data))
        if target.type == "cpu":
            return torch.from_numpy(self._densified())
        return _densified_on_device(self.to(target))

    def _densified(self) -> npt.NDArray[np.float32]:
        """float32 array (B, n_features), by as many threads as it is worth."""
        from data_loaders.reading.kernels import densify

        data, indices, indptr = (np.asarray(part) for part in (self.data, self.indices, self.indptr))
        out = _buffers.empty(len(self) * self.n_features, np.float32).reshape(self.shape)
        threads = min(CORES, 1 + out.nbytes // DENSE_BYTES)
        cuts = [len(self) * i // threads for i in range(threads + 1)]
        pieces = [(data, indices, indptr[a : b + 1], out[a:b]) for a, b in itertools.pairwise(cuts)]
        run_all(densify, pieces, threads, purpose="densify")
        return out


@dataclass(frozen=True, eq=False)
class DenseRows:
    """Rows of a dense matrix, `values` (B, n_features): a NumPy array, or a torch tensor after `.to(device)`."""

    values: ArrayOrTensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self), self.n_features

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return int(self.values.nbytes)

    def __getitem__(self, rows: slice) -> DenseRows:
        return DenseRows(self.values[rows])

    def take(self, rows: Ints) -> DenseRows:
        """Any rows in any order; copied."""
        return DenseRows(self.values.take(rows, axis=0))

    def to_scipy(self) -> sparse.csr_matrix:
        """`scipy.sparse.csr_matrix` (B, n_features) of the values that are not zero."""
        import scipy.sparse

        return scipy.sparse.csr_matrix(np.asarray(self.values))

    def row_sums(self) -> Floats:
        """Sum of each row, float64 (B,)."""
        sums: Floats = np.asarray(self.values).sum(1, dtype=np.float64)
        return sums

    def to(self, device: Device, non_blocking: bool = True) -> DenseRows:
        """The same rows as a torch tensor on `device`."""
        return DenseRows(as_tensor(self.values, device, non_blocking))

    def to_dense(self, device: Device | None = None) -> torch.Tensor:
        """float32 tensor (B, n_features) on `device` (default: where the rows are)."""
        return as_tensor(self.values, device or _device_of(self.values), True).float()


def _device_of(values: ArrayOrTensor) -> Device:
    """Where an array or tensor is."""
    device: Device = getattr(values, "device", "cpu")
    return device


def offsets(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Row offsets, int64 (n + 1,), of rows of these lengths (n,)."""
    lengths = np.asarray(lengths)
    out = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


def _densified_on_device(rows: SparseRows) -> torch.Tensor:
    """float32 tensor (B, n_features) of SparseRows that are tensors, by operations of their device."""
    import torch

    start = torch.arange(len(rows), device=rows.data.device) * rows.n_features
    flat = torch.repeat_interleave(start, rows.indptr.diff(), output_size=len(rows.data)) + rows.indices.long()
    dense = torch.zeros(len(rows) * rows.n_features, device=rows.data.device)
    dense.index_copy_(0, flat, rows.data.float())
    return dense.view(rows.shape)


def as_tensor(values: ArrayOrTensor, device: Device, non_blocking: bool) -> torch.Tensor:
    """`values` (array or tensor) as a tensor on `device`, through pinned memory when that is a GPU."""
    import torch

    device = torch.device(device)
    if not torch.is_tensor(values):
        values = torch.from_numpy(values)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()  # a copy that the GPU fetches while the host goes on
    moved: torch.Tensor = values.to(device, non_blocking=non_blocking)
    return moved


def compacted(rows: SparseRows, kept: Ints) -> SparseRows:
    """The first `kept` (B,) counts of each row."""
    from data_loaders.reading.kernels import gather_rows

    indptr = offsets(kept)
    data, indices = (np.empty(indptr[-1], part.dtype) for part in (rows.data, rows.indices))
    gather_rows(rows.data, rows.indices, rows.indptr, np.arange(len(kept)), data, indices, indptr)
    return SparseRows(data, indices, indptr, rows.n_features)
