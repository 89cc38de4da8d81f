"""The autoencoder: counts to a latent and back to gene proportions (CFGen, equation 2 and section C.1; no KL)."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from cfgen_dist.model.negative_binomial import negative_log_likelihood

LOG_THETA_RANGE = (-10.0, 15.0)  # beyond, the law is a Poisson's, or all but zero: nothing to learn, only to overflow
INPUTS = ("log1p", "log1p_cp10k", "proportions")


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a training batch of one cell, which has no variance."""

    def forward(self, x):
        """Normalise x (B, F)."""
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _hidden_layers(sizes, dropout):
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ELU(), nn.Dropout(dropout)]
    return layers


class Autoencoder(nn.Module):
    """Deterministic autoencoder with a negative binomial likelihood of the raw counts.

    What keeps it from learning its cells by heart: dropout on the input, noise on the latent (whose scale a
    BatchNorm without parameters fixes), and `gene_penalty` on the decoder's last weights, which start at zero, so that
    training starts from the mean profile and a gene leaves it only as far as its cells support.

    Parameters
    ----------
    n_genes : int
    latent_dim : int
    hidden : sequence of int
        Widths of the encoder's hidden layers; the decoder mirrors them.
    dropout, input_dropout : float
        After each hidden layer, and on the encoder's input.
    input : one of `INPUTS`
        What the encoder sees: log1p(x), log1p(1e4 x / l), or x / l.
    latent_noise : float
        Standard deviation of Gaussian noise added to the latent while training.
    n_dispersions : int
        1 for one theta a gene; C for one theta a gene and category of a covariate.
    theta : float
        Start of every theta. A start near 10 trains; N(0, 1) in the log hardly moves.
    """

    def __init__(
        self,
        n_genes,
        latent_dim=50,
        hidden=(256, 128),
        dropout=0.1,
        input_dropout=0.1,
        input="log1p",
        latent_noise=0.1,
        n_dispersions=1,
        theta=10.0,
    ):
        super().__init__()
        self.input = input
        self.latent_dim = latent_dim
        self.latent_noise = latent_noise
        self.encoder = nn.Sequential(
            nn.Dropout(input_dropout),
            *_hidden_layers([n_genes, *hidden], dropout),
            nn.Linear(hidden[-1], latent_dim),
            BatchNorm(latent_dim, affine=False),
        )
        widths = list(reversed(hidden))
        self.decoder = nn.Sequential(*_hidden_layers([latent_dim, *widths], dropout), nn.Linear(widths[-1], n_genes))
        nn.init.zeros_(self.decoder[-1].weight)
        self.log_theta = nn.Parameter(torch.full((n_dispersions, n_genes), float(theta)).log())

    def start_at(self, mean, n_cells):
        """Set the decoder's last bias to the log of the mean profile: training starts from the constant model.

        Parameters
        ----------
        mean : (G,) tensor
            Mean count of each gene over the training cells.
        n_cells : int
            How many they are; one count more is added to each gene.
        """
        with torch.no_grad():
            self.decoder[-1].bias.copy_(((mean * n_cells + 1) / (mean.sum() * n_cells)).log())

    def encode(self, counts, size_factor):
        """Latents of dense counts.

        Parameters
        ----------
        counts : (B, G) float tensor
        size_factor : (B,) float tensor

        Returns
        -------
        (B, D) tensor
        """
        if self.input == "log1p":
            return self.encoder(counts.log1p())
        proportions = counts / size_factor.clamp_min(1.0)[:, None]
        return self.encoder(proportions if self.input == "proportions" else (1e4 * proportions).log1p())

    def decode(self, z):
        """Log gene proportions log rho (B, G) of latents z (B, D)."""
        return F.log_softmax(self.decoder(z).float(), dim=1)

    def dispersion(self, category=None):
        """Log theta: (G,) when there is one a gene, else (B, G) for `category` (B,) int64."""
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if log_theta.shape[0] == 1:
            return log_theta[0]
        if category is None:
            raise ValueError("one theta per gene and category: the category of each cell is needed")
        return log_theta[category]

    def loss(self, counts, size_factor, category=None):
        """Mean over cells of the negative log-likelihood summed over genes.

        Parameters
        ----------
        counts : (B, G) float tensor
        size_factor : (B,) float tensor
        category : (B,) int64 tensor, optional

        Returns
        -------
        scalar tensor, nats per cell
        """
        z = self.encode(counts, size_factor)
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        log_mu = self.decode(z) + size_factor.clamp_min(1.0).log()[:, None]
        rows, columns = counts.nonzero(as_tuple=True)
        return negative_log_likelihood(log_mu, self.dispersion(category), counts[rows, columns], rows, columns).mean()

    def gene_penalty(self):
        """Group lasso on the decoder's last weights, one group a gene: the sum over genes of the norm of its row.

        Genes with too few counts to support a profile of their own stay at the mean profile; marker genes hardly
        shrink. Smoothed at zero, where the norm has no gradient.
        """
        return (self.decoder[-1].weight.square().sum(dim=1) + 1e-4).sqrt().sum()
