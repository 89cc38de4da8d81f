"""The velocity network v(z, t, attributes, size factor) and its flow-matching loss (CFGen, 4.3, B.2 and C.2)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

ABSENT = -1  # the code of an attribute that the network does not see


def sinusoidal(x, width, max_period=1e4, scale=1000.0):
    """Sinusoidal features (B, width) of x (B,)."""
    half = width // 2
    frequency = torch.exp(-math.log(max_period) / half * torch.arange(half, device=x.device, dtype=torch.float32))
    angle = scale * x.float()[:, None] * frequency
    features = torch.cat([angle.cos(), angle.sin()], dim=1)
    return F.pad(features, (0, width - 2 * half))


class Embedding(nn.Module):
    """Sinusoidal features of a number in [0, 1], then a two-layer SiLU network."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.network = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x):
        """Embed x (B,) as (B, width)."""
        return self.network(sinusoidal(x, self.width))


class Block(nn.Module):
    """h = Linear(SiLU(norm(x))) + Linear(SiLU(e)); x + Linear0(SiLU(h)), the last one started at zero."""

    def __init__(self, hidden, embedding):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.enter = nn.Linear(hidden, hidden)
        self.condition = nn.Linear(embedding, hidden)
        self.leave = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, e):
        """Transform x (B, hidden) given e (B, embedding)."""
        h = self.enter(F.silu(self.norm(x))) + self.condition(F.silu(e))
        return x + self.leave(F.silu(h))


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

    def __init__(self, latent_dim, n_categories, hidden=256, blocks=4, embedding=128, size_factor_range=None):
        super().__init__()
        self.size_factor_range = size_factor_range
        self.enter = nn.Linear(latent_dim, hidden)
        self.blocks = nn.ModuleList(Block(hidden, embedding) for _ in range(blocks))
        self.leave = nn.Linear(hidden, latent_dim)
        self.time = Embedding(embedding)
        self.attributes = nn.ModuleList(nn.Embedding(n, embedding) for n in n_categories)
        self.size_factor = Embedding(embedding) if size_factor_range else None
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    def standardise(self, z):
        """Latents as the flow sees them: zero mean and unit variance in every dimension over the training cells."""
        return (z - self.latent_mean) / self.latent_std

    def restore(self, z):
        """The inverse of `standardise`."""
        return z * self.latent_std + self.latent_mean

    def forward(self, z, t, codes, log_size_factor=None):
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
        e = self.time(t)
        for k, table in enumerate(self.attributes):
            code = codes[:, k]
            e = e + table(code.clamp_min(0)) * (code != ABSENT)[:, None]
        if self.size_factor is not None:
            low, high = self.size_factor_range
            e = e + self.size_factor(((log_size_factor - low) / max(high - low, 1e-6)).clamp(-0.1, 1.1))
        x = self.enter(z)
        for block in self.blocks:
            x = block(x, e)
        return self.leave(F.silu(x))
