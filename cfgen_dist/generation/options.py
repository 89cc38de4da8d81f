"""How cells are drawn: the options that everything which draws cells takes, and their check against a model."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from cfgen_dist.generation.unseen import check_way
from cfgen_dist.generation.weights import guidance_weights
from cfgen_dist.model.solvers import ADAPTIVE, SOLVERS
from cfgen_dist.workers.options import WorkersOptions
from data_loaders.errors import BadInput, nearest

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

SHARD_SIZE = 4096
SIZE_FACTOR_LAWS = ("lognormal", "resample")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Sampling:
    """How cells are drawn from a model.

    Attributes
    ----------
    guidance : dict of str to float, optional
        Weight of each attribute; one that is left out gets weight 0. By default that of the bundle's config, 1 each
        unless set otherwise: faithful; more than 1 makes cells more typical of their label, at the cost of diversity.
    size_factor : {"lognormal", "resample"}, optional
        Law of the size factors; the bundle's by default.
    solver : str, optional
        One of `cfgen_dist.model.solvers.SOLVERS`; the bundle's by default.
    steps : int, optional
        Steps of a solver with fixed steps; the bundle's by default.
    seed : int
    shard_size : int
        Cells per shard.
    device : {"cpu", "cuda"}
        Where the networks run; counts are drawn on the CPU. A GPU makes other cells of the same law.
    unseen : {"transfer", "compose", "refuse"}, optional
        How label combinations that no training cell had are made: from the nearest one that was seen by what a label
        changes in other cells, as `cfgen_dist.model.transfer` says (a model with joint conditioning), or by guidance as
        if they had been seen. By default the first where that is possible, else the second.
    """

    guidance: Mapping[str, float] | None = None
    size_factor: str | None = None
    solver: str | None = None
    steps: int | None = None
    seed: int = 0
    shard_size: int = SHARD_SIZE
    device: str = "cpu"
    unseen: str | None = None


DEFAULTS = Sampling()


class FlowOptions(TypedDict, total=False):
    """The fields of `Sampling` that say how the flow is integrated, as keywords."""

    guidance: Mapping[str, float] | None
    solver: str | None
    steps: int | None
    seed: int
    device: str
    unseen: str | None


class ShardOptions(FlowOptions, total=False):
    """The fields of `Sampling` but the size factors, which cells that exist have already, as keywords."""

    shard_size: int


class SamplingOptions(ShardOptions, total=False):
    """All fields of `Sampling` as keywords."""

    size_factor: str | None


class GenerationOptions(SamplingOptions, WorkersOptions, total=False):
    """What `generate` and `augment` take: `Sampling` and `Workers`."""


class TranslationOptions(ShardOptions, WorkersOptions, total=False):
    """What `translate` takes: `Sampling` without size factors, and `Workers`."""


class Settled(NamedTuple):
    """`Sampling` with the defaults of a model filled in; see `cfgen_dist.generation.plan.Plan`."""

    weights: list[float]
    size_factor: str
    solver: str
    steps: int
    batch_size: int
    shard_size: int
    seed: int
    device: str


def settle(sampling: Sampling, model: "TrainedModel") -> Settled:
    """Fill in the defaults of a model and check everything.

    Raises
    ------
    BadInput
        Unknown attribute, solver, law or device (with the nearest valid name), a number below its minimum.
    """
    defaults = model.config.sampling
    settled = Settled(
        weights=guidance_weights(model, sampling.guidance),
        size_factor=sampling.size_factor or model.size_factor.kind,
        solver=sampling.solver or defaults.solver,
        steps=defaults.steps if sampling.steps is None else sampling.steps,
        batch_size=defaults.batch_size,
        shard_size=sampling.shard_size,
        seed=sampling.seed,
        device=sampling.device,
    )
    check_way(sampling.unseen)
    check_settings(settled.solver, settled.steps, settled.size_factor, settled.shard_size, settled.seed, settled.device)
    return settled


def check_settings(solver: str, steps: int, size_factor: str, shard_size: int, seed: int, device: str) -> None:
    """Raise `BadInput` for a solver, a size factor law, a device or a number that cannot be."""
    if solver not in SOLVERS:
        raise BadInput(f"unknown solver {solver!r}, {nearest(solver, SOLVERS)}")
    if solver not in ADAPTIVE and steps < 1:
        raise BadInput(f"steps is {steps}, expected at least 1")
    if size_factor not in SIZE_FACTOR_LAWS:
        raise BadInput(f"unknown size factor law {size_factor!r}, {nearest(size_factor, SIZE_FACTOR_LAWS)}")
    if device not in DEVICES:
        raise BadInput(f"unknown device {device!r}, expected {' or '.join(DEVICES)}")
    if shard_size < 1:
        raise BadInput(f"shard size is {shard_size}, expected at least 1")
    if solver in ADAPTIVE and importlib.util.find_spec("torchdyn") is None:
        raise BadInput(f"solver {solver} needs torchdyn: install cfgen-dist[paper], or take midpoint")
    if not 0 <= seed < 2**63:
        raise BadInput(f"seed is {seed}, expected 0 to 2**63 - 1")
