"""What a trained flow can lend to combinations never seen: combinations that were seen, left out in turn.

A combination is made as if no training cell had it (`cfgen_dist.model.transfer`), with several weights, and the mean
expression that the decoder gives its latents compared with that of its training cells' latents. The network has seen
these cells, but its velocity for them is not used. Latents themselves would be compared in directions that no gene
follows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cfgen_dist.config import Config
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.guidance import PreparedVelocity, guided
from cfgen_dist.model.multimodal import JointAutoencoder, branches
from cfgen_dist.model.solvers import integrate
from cfgen_dist.model.transfer import FEW, Change, Lesson, find_change, transferred
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.training.modalities import fitted_rows
from data_loaders import Atlas
from data_loaders.reading.rows import DenseRows
from data_loaders.seeds import Training, generator
from data_loaders.types import Floats, Ints

WEIGHTS = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
MOST_COMBINATIONS, MOST_CELLS = 8, 256  # left out of each attribute, and cells of each: seconds, whatever the atlas
STEPS = 5  # of the midpoint rule: means need no more


@torch.inference_mode()
def learn_transfer(
    autoencoder: Autoencoder | JointAutoencoder,
    velocity: Velocity,
    latents: Atlas,
    labels: Mapping[str, Sequence[str]],
    config: Config,
) -> dict[str, Lesson]:
    """Leave out seen combinations in turn, and find for each attribute the weight that comes nearest to them.

    Parameters
    ----------
    autoencoder : Autoencoder or JointAutoencoder
    velocity : Velocity
        Both in eval mode, on the CPU.
    latents : Atlas
    labels : dict of str to sequence of str
        Attributes and their categories.
    config : Config
        Settled.

    Returns
    -------
    dict of str to Lesson
        Attribute → what was learned; without those whose change cannot be lent. Nothing for a network that sees one
        attribute at a time: it has no velocity of a combination.
    """
    if config.flow.conditioning != "joint" or len(labels) < 2:
        return {}
    rows = fitted_rows(latents, config.modalities, config.refit)
    codes = np.stack([latents.codes(name)[rows] for name in labels], axis=1).astype(np.int64)
    whole = (codes >= 0).all(axis=1)
    rows, codes = rows[whole], codes[whole]
    combinations, which, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    decoder = branches(autoencoder)["rna"]
    rng = generator(config.seed, Training.TRANSFER)
    tried: dict[str, list[Floats]] = {}
    for left_out in np.argsort(-counts, kind="stable"):
        others = np.arange(len(combinations)) != left_out
        if counts[left_out] < FEW or sum(map(len, tried.values())) >= 2 * MOST_COMBINATIONS * len(labels):
            break
        change = find_change(combinations[left_out], combinations[others], counts[others])
        if change is None:
            continue
        name = list(labels)[change.attribute]
        wanted = f"{name}={labels[name][combinations[left_out, change.attribute]]}"
        if len(tried.get(wanted, [])) < MOST_COMBINATIONS:
            cells = np.sort(rng.permutation(np.flatnonzero(which == left_out))[:MOST_CELLS])
            found = _distances(decoder, velocity, latents, rows[cells], change, rng)
            for key in (name, wanted):
                tried.setdefault(key, []).append(found)
    return {key: _best(np.stack(found)) for key, found in tried.items()}


def _distances(
    decoder: Autoencoder, velocity: Velocity, latents: Atlas, rows: Ints, change: Change, rng: np.random.Generator
) -> Floats:
    """Squared distances between mean expression of cells and of those made from the base: weight 0, then `WEIGHTS`."""
    read = latents.read(rows)
    assert isinstance(read, DenseRows)
    real = _expression(decoder, torch.from_numpy(np.asarray(read.values, dtype=np.float32)))
    n = len(rows)
    logs = torch.from_numpy(np.log(np.maximum(latents.size_factor[rows], 1.0)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal((n, read.n_features), dtype=np.float32))
    pair = rng.integers(len(change.with_), size=n)
    base = torch.from_numpy(np.repeat(change.base[None], n, axis=0))
    without, with_ = torch.from_numpy(change.without[pair]), torch.from_numpy(change.with_[pair])
    found = []
    for weight in (0.0, *WEIGHTS):
        prepared = PreparedVelocity(velocity)
        field = (
            transferred(prepared, base, without, with_, weight, log_size_factor=logs)
            if weight
            else guided(prepared, base, 1.0, joint=True, log_size_factor=logs)
        )
        made = _expression(decoder, velocity.restore(integrate(field, noise, solver="midpoint", steps=STEPS)))
        difference = float((made.mean(0) - real.mean(0)).square().sum())
        found.append(difference - float((made.var(0) + real.var(0)).sum()) / n)  # less what chance adds
    return np.maximum(np.array(found), 0.0)


def _expression(decoder: Autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """log(1 + 10,000 p) of the gene proportions p that latents (B, D) are decoded to, (B, G)."""
    return torch.log1p(1e4 * decoder.decode(latents).exp())


def _best(distances: Floats) -> Lesson:
    """The strongest weight that chance does not tell from the best, of distances (N, 1 + weights) of N combinations.

    What counts is the share that is left of the distance of the base, on average over the combinations. A change that
    is too weak is the usual failure: cells of a combination never seen stay near the base.
    """
    left = distances[:, 1:] / np.maximum(distances[:, :1], 1e-12)
    worse = left - left[:, [left.mean(axis=0).argmin()]]
    error = worse.std(axis=0) / np.sqrt(max(len(left) - 1, 1))
    weight = int(np.flatnonzero(worse.mean(axis=0) <= error)[-1])
    return Lesson(WEIGHTS[weight], len(distances), float(1 - np.sqrt(np.median(left[:, weight]))))
