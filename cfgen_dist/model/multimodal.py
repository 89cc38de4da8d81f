"""Several modalities in one latent: an encoder and a decoder for each, and a layer that joins them (CFGen, C.1)."""

import torch
from torch import nn

from cfgen_dist.model.autoencoder import BatchNorm


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

    def __init__(self, branches, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        self.branches = nn.ModuleDict(branches)
        width = sum(branch.latent_dim for branch in branches.values())
        self.join = nn.Sequential(nn.Linear(width, latent_dim), BatchNorm(latent_dim, affine=False))
        self.latent_noise = next(iter(branches.values())).latent_noise

    def start_at(self, means, n_cells):
        """Start every decoder from its modality's mean profile; `means` modality → (features,) tensor."""
        for name, branch in self.branches.items():
            branch.start_at(means[name], n_cells)

    def dense(self, counts, device=None):
        """What `encode` and `forward` take of a batch's `counts`, modality → SparseRows: dense, of every modality."""
        return {name: counts[name].to_dense(device) for name in self.branches}

    def encode(self, counts, size_factor):
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
        for name, branch in self.branches.items():
            there = sizes[name] > 0
            code = branch.encode(counts[name][there], sizes[name][there])
            codes.append(code.new_zeros(len(there), branch.latent_dim).masked_scatter(there[:, None], code))
        return self.join(torch.cat(codes, dim=1))

    def forward(self, counts, size_factor, category=None):
        """The loss: mean over cells of the negative log-likelihood, summed over features and modalities.

        Parameters
        ----------
        counts, size_factor
            As `encode` takes them.
        category : (B,) int64 tensor, optional

        Returns
        -------
        scalar tensor, nats per cell
        """
        z = self.encode(counts, size_factor)
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        sizes = self._sizes(counts, size_factor)
        total = 0.0
        for name, branch in self.branches.items():
            nll = branch.nll(z, counts[name], sizes[name], category)
            total = total + torch.where(sizes[name] > 0, nll, 0.0)
        return total.mean()

    def gene_penalty(self):
        """Sum of the modalities' penalties, see `Autoencoder.gene_penalty`."""
        return sum(branch.gene_penalty() for branch in self.branches.values())

    def _sizes(self, counts, size_factor):
        own = {name: counts[name].sum(dim=1) for name in self.branches if name != "rna"}
        return {"rna": size_factor} | own


def branches(autoencoder):
    """Modality → Autoencoder, of an autoencoder of one or of several."""
    return dict(autoencoder.branches) if isinstance(autoencoder, JointAutoencoder) else {"rna": autoencoder}
