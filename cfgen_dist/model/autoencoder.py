"""The autoencoder: counts to a latent and back to gene proportions (CFGen, equation 2 and section C.1; no KL)."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cfgen_dist.model.likelihoods.bernoulli import bernoulli_nll, draw_bernoulli
from cfgen_dist.model.likelihoods.negative_binomial import draw, negative_log_likelihood
from cfgen_dist.model.likelihoods.poisson import NO_DISPERSION, poisson_nll

LOG_THETA_RANGE = (-10.0, 15.0)  # beyond, the law is a Poisson's, or all but zero: nothing to learn, only to overflow
INPUTS = ("log1p", "log1p_cp10k", "proportions", "binary")


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a training batch of one cell (or none), without variance."""

    def forward(self, x):
        """Normalise x (B, F)."""
        if self.training and x.shape[0] <= 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _hidden_layers(sizes, dropout):
    layers = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ELU(), nn.Dropout(dropout)]
    return layers


class Autoencoder(nn.Module):
    """Deterministic autoencoder of one modality, with a likelihood of the raw counts.

    Negative binomial: mean l * rho, rho the softmax over genes of the decoder's output. Poisson: the same without
    dispersion. Bernoulli: the probability that a peak is open is the sigmoid of the decoder's output; one more output
    is added to the logits of all peaks, so that a cell's depth need not be learned peak by peak.

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
        What the encoder sees: log1p(x), log1p(1e4 x / l), x / l, or whether x > 0.
    latent_noise : float
        Standard deviation of Gaussian noise added to the latent while training.
    n_dispersions : int
        1 for one theta a gene; C for one theta a gene and category of a covariate.
    theta : float
        Start of every theta. A start near 10 trains; N(0, 1) in the log hardly moves.
    likelihood : {"nb", "bernoulli", "poisson"}
    decoded_dim : int, optional
        Dimensions that the decoder starts from, when they are not those of the encoder's latent.
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
        likelihood="nb",
        decoded_dim=None,
    ):
        super().__init__()
        self.input, self.likelihood, self.n_genes = input, likelihood, n_genes
        self.latent_dim = latent_dim
        self.latent_noise = latent_noise
        self.encoder = nn.Sequential(
            nn.Dropout(input_dropout),
            *_hidden_layers([n_genes, *hidden], dropout),
            nn.Linear(hidden[-1], latent_dim),
            BatchNorm(latent_dim, affine=False),
        )
        widths = list(reversed(hidden))
        n_outputs = n_genes + 1 if likelihood == "bernoulli" else n_genes
        self.decoder = nn.Sequential(
            *_hidden_layers([decoded_dim or latent_dim, *widths], dropout), nn.Linear(widths[-1], n_outputs)
        )
        nn.init.zeros_(self.decoder[-1].weight)
        if likelihood == "nb":
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
            if self.likelihood == "bernoulli":  # open in a share 1 - exp(-mean) of cells, if counts are Poisson
                logits = torch.expm1((mean * n_cells + 1) / n_cells).log()
                self.decoder[-1].bias.copy_(torch.cat([logits, logits.new_zeros(1)]))
            else:
                self.decoder[-1].bias.copy_(((mean * n_cells + 1) / (mean.sum() * n_cells)).log())

    def dense(self, counts, device=None):
        """What `encode` and `forward` take of a batch's `counts`, modality → SparseRows: those of `rna`, densified."""
        return counts["rna"].to_dense(device)

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
        if self.input == "binary":
            return self.encoder((counts > 0).float())
        if self.input == "log1p":
            return self.encoder(counts.log1p())
        proportions = counts / size_factor.clamp_min(1.0)[:, None]
        return self.encoder(proportions if self.input == "proportions" else (1e4 * proportions).log1p())

    def decode(self, z):
        """Log gene proportions log rho (B, G) of latents z (B, D); of a Bernoulli modality, the logits."""
        decoded = self.decoder(z).float()
        if self.likelihood == "bernoulli":
            return decoded[:, :-1] + decoded[:, -1:]
        return F.log_softmax(decoded, dim=1)

    def dispersion(self, category=None):
        """Log theta: (G,) when there is one a gene, else (B, G) for `category` (B,) int64."""
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if log_theta.shape[0] == 1:
            return log_theta[0]
        if category is None:
            raise ValueError("one theta per gene and category: the category of each cell is needed")
        return log_theta[category]

    def forward(self, counts, size_factor, category=None):
        """The loss: mean over cells of the negative log-likelihood summed over genes.

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
        return self.nll(z, counts, size_factor, category).mean()

    def nll(self, z, counts, size_factor, category=None):
        """Negative log-likelihood (B,) of dense counts (B, G) under latents z (B, D), summed over genes."""
        decoded = self.decode(z)
        rows, columns = counts.nonzero(as_tuple=True)
        if self.likelihood == "bernoulli":
            return bernoulli_nll(decoded, rows, columns)
        log_mu = decoded + size_factor.clamp_min(1.0).log()[:, None]
        if self.likelihood == "poisson":
            return poisson_nll(log_mu, counts[rows, columns], rows, columns)
        return negative_log_likelihood(log_mu, self.dispersion(category), counts[rows, columns], rows, columns)

    def draw(self, z, size_factor, category, seeds, rng):
        """Draw counts of latents z (B, D) straight into CSR; of a Bernoulli modality, zeros and ones.

        Parameters
        ----------
        z : (B, D) tensor
        size_factor : (B,) array
            Not used by a Bernoulli modality.
        category : (B,) int64 array
            Whose theta; zeros when there is one a gene.
        seeds, rng
            As in `negative_binomial.draw`.

        Returns
        -------
        data, indices, indptr : arrays
        """
        if self.likelihood == "bernoulli":
            return draw_bernoulli(torch.sigmoid(self.decode(z)).cpu().numpy(), seeds)
        rho = torch.softmax(self.decoder(z), dim=1).cpu().numpy()
        if self.likelihood == "poisson":
            return draw(rho, size_factor, np.full(self.n_genes, NO_DISPERSION), seeds, rng)
        theta = self.dispersion(torch.from_numpy(category).to(z.device)).exp().cpu().numpy()
        return draw(rho, size_factor, theta, seeds, rng)

    def gene_penalty(self):
        """Group lasso on the decoder's last weights, one group a gene: the sum over genes of the norm of its row.

        Genes with too few counts to support a profile of their own stay at the mean profile; marker genes hardly
        shrink. Smoothed at zero, where the norm has no gradient.
        """
        return (self.decoder[-1].weight[: self.n_genes].square().sum(dim=1) + 1e-4).sqrt().sum()
