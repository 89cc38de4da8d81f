"""Several modalities in one latent: an encoder and a decoder for each, and a layer that joins them (CFGen, C.1)."""

from collections.abc import ItemsView, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cfgen_dist.model.autoencoder import Autoencoder, BatchNorm, Device, Rows
from cfgen_dist.model.sweeps.blocks import Counts
from data_loaders.reading.rows import SparseRows
from data_loaders.types import Floats


class JointAutoencoder(nn.Module):
    """One autoencoder a modality; their codes, side by side, make the latent by one shared layer.

    A cell may lack a modality: its counts there are all zero. It is then encoded from the others, with a code of zeros
    in that place, and only the others enter its likelihood.

    Parameters
    ----------
    branches : dict of str to Autoencoder
        Modality → encoder from its features to a code, decoder from the latent. `rna` first.
    latent_dim : int
        Dimensions D of the shared latent.
    """

    def __init__(self, branches: Mapping[str, Autoencoder], latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.branches = nn.ModuleDict(dict(branches))
        width = sum(branch.latent_dim for branch in branches.values())
        self.join = nn.Sequential(nn.Linear(width, latent_dim), BatchNorm(latent_dim, affine=False))
        self.latent_noise = next(iter(branches.values())).latent_noise

    def _named(self) -> "ItemsView[str, Autoencoder]":
        return cast("ItemsView[str, Autoencoder]", self.branches.items())

    def start_at(self, means: Mapping[str, Tensor], n_cells: int) -> None:
        """Start every decoder from its modality's mean profile; `means` modality → (features,) tensor."""
        for name, branch in self._named():
            branch.start_at(means[name], n_cells)

    def dense(self, counts: Mapping[str, Rows], device: Device = None) -> Any:
        """What `encode` and `forward` take of a batch's `counts`, modality → SparseRows: dense, of every modality."""
        return {name: counts[name].to_dense(device) for name in self.branches}

    def encode(self, counts: Mapping[str, Tensor], size_factor: Tensor) -> Tensor:
        """Latents of dense counts.

        Parameters
        ----------
        counts : dict of str to (B, features) float tensor
        size_factor : (B,) float tensor
            Of rna; those of other modalities are the sums of their counts.

        Returns
        -------
        (B, D) tensor
        """
        sizes = self._sizes(counts, size_factor)
        codes = []
        for name, branch in self._named():
            there = sizes[name] > 0
            code = branch.encode(counts[name][there], sizes[name][there])
            codes.append(code.new_zeros(len(there), branch.latent_dim).masked_scatter(there[:, None], code))
        latents: Tensor = self.join(torch.cat(codes, dim=1))
        return latents

    def forward(
        self,
        counts: Mapping[str, Tensor],
        size_factor: Tensor,
        category: Tensor | None = None,
        shifts: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss: mean over cells of the negative log-likelihood, summed over features and modalities.

        Parameters
        ----------
        counts, size_factor
            As `encode` takes them.
        category : (B,) int64 tensor, optional
        shifts : dict of str to (B, features) tensor, optional
            Modality → what a calibration adds to its decoder's outputs.

        Returns
        -------
        scalar tensor, nats per cell
        """
        z = self.encode(counts, size_factor)
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        sizes = self._sizes(counts, size_factor)
        total = torch.zeros((), device=z.device)
        for name, branch in self._named():
            nll = branch.nll(z, counts[name], sizes[name], category, (shifts or {}).get(name))
            total = total + torch.where(sizes[name] > 0, nll, 0.0)
        return total.mean()

    @property
    def has_one_pass(self) -> bool:
        """Whether `one_pass` can be called."""
        return all(branch.has_one_pass for _, branch in self._named())

    def one_pass(
        self, counts: Mapping[str, SparseRows], size_factor: Tensor, category: Tensor | None = None, half: bool = False
    ) -> Tensor:
        """The loss as `forward` computes it, on a CPU, from sparse counts; see `Autoencoder.one_pass`."""
        rows = {name: counts[name] for name in self.branches}
        sizes = {name: size_factor.numpy() if name == "rna" else _sums(rows[name]) for name in rows}
        codes = []
        for name, branch in self._named():
            there = np.flatnonzero(sizes[name] > 0)
            code = branch.encode_sparse(Counts.of(_numpy(rows[name]).take(there)), sizes[name][there], half)
            empty = code.new_zeros(len(size_factor), branch.latent_dim)
            codes.append(empty.index_copy(0, torch.from_numpy(there), code))
        z: Tensor = self.join(torch.cat(codes, dim=1))
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        total = torch.zeros(())
        for name, branch in self._named():
            sparse, used = Counts.of(rows[name]), sizes[name] > 0
            total = total + branch.sparse_loss(z, sparse, sizes[name], category, half, used)
        return total

    def gene_penalty(self) -> Tensor:
        """Sum of the modalities' penalties, see `Autoencoder.gene_penalty`."""
        first, *others = (branch.gene_penalty() for _, branch in self._named())
        return sum(others, start=first)

    def _sizes(self, counts: Mapping[str, Tensor], size_factor: Tensor) -> dict[str, Tensor]:
        others = {name: counts[name].sum(dim=1) for name in self.branches if name != "rna"}
        return {"rna": size_factor} | others


def _numpy(rows: SparseRows) -> SparseRows:
    """The same rows as NumPy arrays."""
    return SparseRows(np.asarray(rows.data), np.asarray(rows.indices), np.asarray(rows.indptr), rows.n_features)


def _sums(rows: SparseRows) -> Floats:
    """Sum of each row's counts, float32 (B,)."""
    return rows.row_sums().astype(np.float32)


def branches(autoencoder: Autoencoder | JointAutoencoder) -> dict[str, Autoencoder]:
    """Modality → Autoencoder, of an autoencoder of one or of several."""
    return dict(autoencoder._named()) if isinstance(autoencoder, JointAutoencoder) else {"rna": autoencoder}
