"""`CellBatch`: what a stream yields and a training step receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from data_loaders.reading.rows import ArrayOrTensor, DenseRows, Device, SparseRows, as_tensor


@dataclass(frozen=True, eq=False)
class CellBatch:
    """Some cells of an atlas.

    Parameters
    ----------
    counts : dict of str to SparseRows or DenseRows
        Modality → counts of the B cells. A store of latents has one modality, `latent`, as DenseRows.
    size_factor : float32 array (B,)
        Sum of the counts of each cell over all genes of the store, whatever its obs says; of latents, of the cell that
        each was made of.
    labels : dict of str to int64 array (B,)
        Label column → category codes.
    rows : int64 array (B,)
        Row of each cell in the atlas.

    Notes
    -----
    NumPy arrays as yielded, torch tensors after `.to(device)`.
    """

    counts: Mapping[str, SparseRows | DenseRows]
    size_factor: ArrayOrTensor
    labels: Mapping[str, ArrayOrTensor]
    rows: ArrayOrTensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latent(self) -> ArrayOrTensor:
        """Latents (B, D) of a batch from a store of latents."""
        return cast(DenseRows, self.counts["latent"]).values

    def to(self, device: Device, non_blocking: bool = True) -> CellBatch:
        """The batch as torch tensors on `device`; counts stay sparse, `counts["rna"].to_dense()` densifies there."""
        return CellBatch(
            {name: rows.to(device, non_blocking) for name, rows in self.counts.items()},
            as_tensor(self.size_factor, device, non_blocking),
            {name: as_tensor(codes, device, non_blocking) for name, codes in self.labels.items()},
            as_tensor(self.rows, device, non_blocking),
        )
