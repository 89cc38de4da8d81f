"""The autoencoder: counts to a latent and back to gene proportions (CFGen, equation 2 and section C.1; no KL)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cfgen_dist.model.likelihoods import DEFAULT, LIKELIHOODS
from cfgen_dist.model.likelihoods.likelihood import Csr
from cfgen_dist.model.one_pass import first_layer, likelihood_loss, seen
from cfgen_dist.model.sweeps.blocks import Counts
from data_loaders.reading.rows import SparseRows
from data_loaders.types import Array, Floats, Ints

LOG_THETA_RANGE = (-10.0, 15.0)  # beyond, the law is a Poisson's, or all but zero: nothing to learn, only to overflow
INPUTS = ("log1p", "log1p_cp10k", "proportions", "binary")
Device = torch.device | str | None


class Rows(Protocol):
    """Rows of a matrix that can be made dense, such as `data_loaders.reading.rows.SparseRows`."""

    def to_dense(self, device: Device = None) -> Any:
        """The rows as a (B, F) float tensor."""


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that uses its running statistics for a training batch of one cell (or none), without variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, F)."""
        if self.training and x.shape[0] <= 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def _hidden_layers(sizes: Sequence[int], dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), BatchNorm(n_out), nn.ELU(), nn.Dropout(dropout)]
    return layers


class Autoencoder(nn.Module):
    """Deterministic autoencoder of one modality, with a likelihood of the raw counts.

    What the decoder's outputs mean is up to the likelihood, see `cfgen_dist.model.likelihoods`.

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
    likelihood : str
        A name of `cfgen_dist.model.likelihoods.LIKELIHOODS`.
    decoded_dim : int, optional
        Dimensions that the decoder starts from, when they are not those of the encoder's latent.
    """

    def __init__(
        self,
        n_genes: int,
        latent_dim: int = 50,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.1,
        input_dropout: float = 0.1,
        input: str = "log1p",
        latent_noise: float = 0.1,
        n_dispersions: int = 1,
        theta: float = 10.0,
        likelihood: str = DEFAULT,
        decoded_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.input, self.likelihood, self.n_genes = input, LIKELIHOODS[likelihood], n_genes
        self.latent_dim = latent_dim
        self.latent_noise = latent_noise
        self.encoder = nn.Sequential(
            nn.Dropout(input_dropout),
            *_hidden_layers([n_genes, *hidden], dropout),
            nn.Linear(hidden[-1], latent_dim),
            BatchNorm(latent_dim, affine=False),
        )
        widths = list(reversed(hidden))
        self.decoder = nn.Sequential(
            *_hidden_layers([decoded_dim or latent_dim, *widths], dropout),
            nn.Linear(widths[-1], self.likelihood.n_outputs(n_genes)),
        )
        nn.init.zeros_(self._last_layer.weight)
        if self.likelihood.has_dispersion:
            self.log_theta = nn.Parameter(torch.full((n_dispersions, n_genes), float(theta)).log())

    @property
    def _last_layer(self) -> nn.Linear:
        return cast(nn.Linear, self.decoder[-1])

    def start_at(self, mean: Tensor, n_cells: int) -> None:
        """Set the decoder's last bias to that of the mean profile: training starts from the constant model.

        Parameters
        ----------
        mean : (G,) tensor
            Mean count of each gene over the training cells.
        n_cells : int
            How many training cells there are; one count more is added to each gene.
        """
        with torch.no_grad():
            self._last_layer.bias.copy_(self.likelihood.start_bias(mean, n_cells))

    def dense(self, counts: Mapping[str, Rows], device: Device = None) -> Any:
        """What `encode` and `forward` take of a batch's `counts`, modality → SparseRows: those of `rna`, densified."""
        return counts["rna"].to_dense(device)

    def encode(self, counts: Tensor, size_factor: Tensor) -> Tensor:
        """Latents of dense counts.

        Parameters
        ----------
        counts : (B, G) float tensor
        size_factor : (B,) float tensor

        Returns
        -------
        (B, D) tensor
        """
        latents: Tensor = self.encoder(self._seen(counts, size_factor))
        return latents

    def _seen(self, counts: Tensor, size_factor: Tensor) -> Tensor:
        """What the encoder sees of counts (B, G)."""
        if self.input == "binary":
            return (counts > 0).float()
        if self.input == "log1p":
            return counts.log1p()
        proportions = counts / size_factor.clamp_min(1.0)[:, None]
        return proportions if self.input == "proportions" else (1e4 * proportions).log1p()

    def decode(self, z: Tensor) -> Tensor:
        """What latents z (B, D) stand for, (B, G): log gene proportions; of a Bernoulli modality, logits."""
        return self.likelihood.decode(self._outputs(z))

    def expected(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        """Expected counts (B, G) of latents z (B, D), see `Likelihood.expected`; `shift` as in `nll`."""
        return self.likelihood.expected(self._outputs(z, shift))

    def _outputs(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        """The decoder's outputs in float32, also where it computes in less, with the offsets of a calibration."""
        outputs: Tensor = self.decoder(z).float()
        if shift is not None:
            outputs[:, : self.n_genes] += shift
        return outputs

    def dispersion(self, category: Tensor | None = None) -> Tensor | None:
        """Log theta: (G,) when there is one a gene, else (B, G) for `category` (B,) int64; None without any."""
        if not self.likelihood.has_dispersion:
            return None
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE)
        if log_theta.shape[0] == 1:
            return log_theta[0]
        if category is None:
            raise ValueError("one theta per gene and category: the category of each cell is needed")
        return log_theta[category]

    def forward(
        self,
        counts: Tensor,
        size_factor: Tensor,
        category: Tensor | None = None,
        shifts: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss: mean over cells of the negative log-likelihood summed over genes.

        Parameters
        ----------
        counts : (B, G) float tensor
        size_factor : (B,) float tensor
        category : (B,) int64 tensor, optional
        shifts : dict of str to (B, G) tensor, optional
            As `cfgen_dist.model.calibration.Calibration.shifts` gives them; that of `rna` is taken.

        Returns
        -------
        scalar tensor, nats per cell
        """
        z = self.encode(counts, size_factor)
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        return self.nll(z, counts, size_factor, category, (shifts or {}).get("rna")).mean()

    @property
    def has_one_pass(self) -> bool:
        """Whether `one_pass` can be called."""
        return self.likelihood.has_sweep

    def one_pass(
        self, counts: Mapping[str, SparseRows], size_factor: Tensor, category: Tensor | None = None, half: bool = False
    ) -> Tensor:
        """The loss as `forward` computes it, on a CPU, from sparse counts: faster and with less memory.

        Parameters
        ----------
        counts : dict of str to SparseRows
            Of a batch; `rna` is taken.
        size_factor : (B,) float tensor
        category : (B,) int64 tensor, optional
        half : bool
            Whether the products of the first and the last layer are of bfloat16 numbers.

        Returns
        -------
        scalar tensor, nats per cell
        """
        sizes, sparse = size_factor.numpy(), Counts.of(counts["rna"])
        z = self.encode_sparse(sparse, sizes, half)
        if self.training and self.latent_noise > 0:
            z = z + self.latent_noise * torch.randn_like(z)
        return self.sparse_loss(z, sparse, sizes, category, half)

    def encode_sparse(self, counts: Counts, size_factor: Floats, half: bool = False) -> Tensor:
        """Latents (B, D), as `encode` makes them, of sparse counts on a CPU."""
        dropout, first, *others = self.encoder
        share = cast(nn.Dropout, dropout).p if self.training else 0.0
        x = first_layer(seen(counts, self.n_genes, size_factor, self.input, share, half), cast(nn.Linear, first))
        for layer in others:
            x = layer(x)
        return x

    def sparse_loss(
        self, z: Tensor, counts: Counts, size_factor: Floats, category: Tensor | None, half: bool,
        used: Array | None = None,
    ) -> Tensor:  # fmt: skip
        """Negative log-likelihood of sparse counts under latents z (B, D): that of the `used` cells (B,), over B."""
        log_theta = self.log_theta.clamp(*LOG_THETA_RANGE) if self.likelihood.has_dispersion else None
        lines = np.zeros(len(z), np.int64)
        if log_theta is not None and len(log_theta) > 1:
            if category is None:
                raise ValueError("one theta per gene and category: the category of each cell is needed")
            lines = category.numpy()
        if used is not None:
            lines = np.where(used, lines, -1)
        hidden = self.decoder[:-1](z).float()
        return likelihood_loss(
            hidden, self._last_layer, log_theta, self.likelihood, lines, size_factor, counts, self.n_genes, half
        )

    def nll(
        self,
        z: Tensor,
        counts: Tensor,
        size_factor: Tensor,
        category: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood (B,) of dense counts (B, G) under latents z (B, D), summed over genes.

        `shift` (B, G) is what a calibration adds to the decoder's outputs.
        """
        return self.likelihood.nll(self._outputs(z, shift), counts, size_factor, self.dispersion(category))

    def draw(
        self,
        z: Tensor,
        size_factor: Floats | None,
        category: Ints,
        seeds: Ints,
        rng: np.random.Generator,
        shift: Tensor | None = None,
    ) -> Csr:
        """Draw counts of latents z (B, D) straight into CSR; of a Bernoulli modality, zeros and ones.

        Parameters
        ----------
        z : (B, D) tensor
        size_factor : (B,) array
            None for a modality whose counts do not scale with it.
        category : (B,) int64 array
            Whose theta; zeros when there is one a gene.
        seeds, rng
            As in `cfgen_dist.model.likelihoods.likelihood.Likelihood.draw`.
        shift : (B, G) tensor, optional
            What a calibration adds to the decoder's outputs.

        Returns
        -------
        data, indices, indptr : arrays
        """
        log_theta = self.dispersion(torch.from_numpy(category).to(z.device))
        return self.likelihood.draw(self._outputs(z, shift), size_factor, log_theta, seeds, rng)

    def gene_penalty(self) -> Tensor:
        """Group lasso on the decoder's last weights, one group a gene: the sum over genes of the norm of its row.

        Genes with too few counts to support a profile of their own stay at the mean profile; marker genes hardly
        shrink. Smoothed at zero, where the norm has no gradient.
        """
        penalty: Tensor = _SumOfNorms.apply(self._last_layer.weight, self.n_genes)
        return penalty


class _SumOfNorms(torch.autograd.Function):
    """Sum over the first n rows of sqrt(|row|^2 + 1e-4); autograd would square and root whole matrices."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, n: int) -> Tensor:
        norms = (torch.linalg.vector_norm(weight[:n], dim=1).square() + 1e-4).sqrt()
        ctx.save_for_backward(weight, norms)
        total: Tensor = norms.sum()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        weight, norms = ctx.saved_tensors
        made = torch.zeros_like(weight) if len(weight) > len(norms) else torch.empty_like(weight)
        torch.mul(weight[: len(norms)], (gradient / norms)[:, None], out=made[: len(norms)])
        return made, None
