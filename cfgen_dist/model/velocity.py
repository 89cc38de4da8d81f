"""The velocity network v(z, t, attributes, size factor) (CFGen, 4.3 and B.2)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ABSENT = -1  # the code of an attribute that the network does not see


def sinusoidal(x: Tensor, width: int, max_period: float = 1e4, scale: float = 1000.0) -> Tensor:
    """Sinusoidal features (B, width) of x (B,)."""
    half = width // 2
    frequency = torch.exp(-math.log(max_period) / half * torch.arange(half, device=x.device, dtype=torch.float32))
    angle = scale * x.float()[:, None] * frequency
    features = torch.cat([angle.cos(), angle.sin()], dim=1)
    return F.pad(features, (0, width - 2 * half))


class Embedding(nn.Module):
    """Sinusoidal features of a number in [0, 1], then a two-layer SiLU network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.network = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Embed x (B,) as (B, width)."""
        embedded: Tensor = self.network(sinusoidal(x, self.width))
        return embedded


class SizeFactorEmbedding(Embedding):
    """An embedding of log size factors; those beyond the training cells' are moved to just beside their range.

    Parameters
    ----------
    width : int
    low, high : float
        Smallest and largest log size factor of the training cells.
    """

    def __init__(self, width: int, low: float, high: float) -> None:
        super().__init__(width)
        self.low, self.high = low, high

    def forward(self, log_size_factor: Tensor) -> Tensor:
        """Embed log size factors (B,) as (B, width)."""
        return super().forward(((log_size_factor - self.low) / max(self.high - self.low, 1e-6)).clamp(-0.1, 1.1))


class Block(nn.Module):
    """h = Linear(SiLU(norm(x))) + Linear(SiLU(e)); x + Linear0(SiLU(h)), the last one started at zero."""

    def __init__(self, hidden: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.enter = nn.Linear(hidden, hidden)
        self.condition = nn.Linear(embedding, hidden)
        self.leave = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Transform x (B, hidden) given e (B, embedding)."""
        return self.step(x, self.condition(F.silu(e)))

    def step(self, x: Tensor, condition: Tensor) -> Tensor:
        """Transform x (B, hidden), given what the embedding adds, (B, hidden)."""
        h = self.enter(F.silu(self.norm(x))) + condition
        moved: Tensor = x + self.leave(F.silu(h))
        return moved


class Velocity(nn.Module):
    """Velocity of the flow from noise to latents.

    Parameters
    ----------
    latent_dim : int
    n_categories : sequence of int
        Number of categories of each of the K attributes.
    hidden, blocks, embedding : int
        Width and number of the residual blocks, width of every embedding.
    size_factor_range : (float, float), optional
        Smallest and largest log size factor of the training cells; given when the network is conditioned on it.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        latent_dim: int,
        n_categories: Sequence[int],
        hidden: int = 256,
        blocks: int = 4,
        embedding: int = 128,
        size_factor_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.size_factor_range = size_factor_range
        self.enter = nn.Linear(latent_dim, hidden)
        self.blocks = nn.ModuleList(Block(hidden, embedding) for _ in range(blocks))
        self.leave = nn.Linear(hidden, latent_dim)
        self.time = Embedding(embedding)
        self.attributes = nn.ModuleList(nn.Embedding(n, embedding) for n in n_categories)
        self.size_factor = SizeFactorEmbedding(embedding, *size_factor_range) if size_factor_range else None
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    def standardise(self, z: Tensor) -> Tensor:
        """Latents as the flow sees them: zero mean and unit variance in every dimension over the training cells."""
        return (z - self.latent_mean) / self.latent_std

    def restore(self, z: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return z * self.latent_std + self.latent_mean

    def add_conditions(self, e: Tensor, codes: Tensor, log_size_factor: Tensor | None) -> Tensor:
        """Add the embeddings of attributes and size factor to an embedding `e` (B or 1, E); see `forward`."""
        for k, table in enumerate(self.attributes):
            code = codes[:, k]
            e = e + table(code.clamp_min(0)) * (code != ABSENT)[:, None]
        return e if self.size_factor is None else e + self.size_factor(log_size_factor)

    def forward(self, z: Tensor, t: Tensor, codes: Tensor, log_size_factor: Tensor | None = None) -> Tensor:
        """Velocity at z.

        Parameters
        ----------
        z : (B, D) tensor
        t : (B,) tensor
            Time in [0, 1].
        codes : (B, K) int64 tensor
            Category of each attribute, `ABSENT` where the network must not see it.
        log_size_factor : (B,) tensor
            Used when the network is conditioned on the size factor.

        Returns
        -------
        (B, D) tensor
        """
        e = self.add_conditions(self.time(t), codes, log_size_factor)
        x = self.enter(z)
        for block in self.blocks:
            x = block(x, e)
        v: Tensor = self.leave(F.silu(x))
        return v
