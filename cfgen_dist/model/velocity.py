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


def drop_attributes(codes, p_cond, joint, generator=None):
    """Hide attributes per cell, for classifier-free guidance.

    With probability `p_cond` a cell keeps exactly one attribute, drawn uniformly, else none; with `joint` it keeps all
    of them, else none.

    Parameters
    ----------
    codes : (B, K) int64 tensor
    p_cond : float
    joint : bool
    generator : torch.Generator, optional

    Returns
    -------
    (B, K) int64 tensor
    """
    n, k = codes.shape
    seen = torch.rand(n, 1, device=codes.device, generator=generator) < p_cond
    if not joint and k > 1:
        kept = torch.randint(k, (n, 1), device=codes.device, generator=generator)
        seen = seen & (torch.arange(k, device=codes.device) == kept)
    return torch.where(seen, codes, ABSENT)


def flow_matching_loss(velocity, z1, codes, log_size_factor=None, generator=None):
    """Mean squared error between the velocity and z_1 - z_0 at z_t = (1 - t) z_0 + t z_1.

    t is stratified over the batch: one uniform draw in each of B equal intervals, in random order.

    Parameters
    ----------
    velocity : Velocity
    z1 : (B, D) tensor
        Latents of cells.
    codes : (B, K) int64 tensor
    log_size_factor : (B,) tensor, optional
    generator : torch.Generator, optional

    Returns
    -------
    scalar tensor
    """
    n = z1.shape[0]
    z0 = torch.randn(z1.shape, device=z1.device, generator=generator)
    strata = torch.randperm(n, device=z1.device, generator=generator)
    t = (strata + torch.rand(n, device=z1.device, generator=generator)) / n
    zt = (1 - t[:, None]) * z0 + t[:, None] * z1
    return F.mse_loss(velocity(zt, t, codes, log_size_factor), z1 - z0)


def guided(velocity, codes, weights, joint=False, log_size_factor=None):
    """Build the guided field v(z,t) + sum_i w_i (v(z,t,y_i) - v(z,t)) (CFGen, equation 10).

    Terms with weight zero are not evaluated, nor is the unconditional one when the weights sum to one; the others go
    through the network as one batch.

    Parameters
    ----------
    velocity : Velocity
    codes : (B, K) int64 tensor
        The label of every attribute; that of an attribute with weight zero is ignored.
    weights : sequence of K floats, or one float if `joint`
    joint : bool
        The network was trained on all attributes at once: one weight on the joint label.
    log_size_factor : (B,) tensor, optional

    Returns
    -------
    callable (z (B, D), t float) -> (B, D) tensor
    """
    n = len(codes)
    terms = []  # (weight, codes seen)
    if joint:
        terms.append((float(weights), codes))
    else:
        for i, weight in enumerate(weights):
            seen = torch.full_like(codes, ABSENT)
            seen[:, i] = codes[:, i]
            terms.append((float(weight), seen))
    terms = [(weight, seen) for weight, seen in terms if weight != 0]
    unconditional = 1.0 - sum(weight for weight, _ in terms)
    if abs(unconditional) > 1e-12 or not terms:
        terms.append((unconditional, torch.full_like(codes, ABSENT)))
    seen = torch.cat([seen for _, seen in terms])
    weight = torch.tensor([weight for weight, _ in terms], device=codes.device)
    sizes = None if log_size_factor is None else log_size_factor.repeat(len(terms))

    def field(z, t):
        time = torch.full((n * len(terms),), t, device=z.device)
        v = velocity(z.repeat(len(terms), 1), time, seen, sizes)
        return torch.einsum("w,wbd->bd", weight, v.view(len(terms), n, -1))

    return field
