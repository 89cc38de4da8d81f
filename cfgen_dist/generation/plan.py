"""What to generate, decided before anything starts: the label of every cell, the shards, guidance, solver, seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cfgen_dist.generation.options import DEFAULTS, Sampling, check_settings, settle
from cfgen_dist.generation.request import MOST_CELLS, combinations_of
from cfgen_dist.generation.unseen import choose_way
from cfgen_dist.generation.weights import MOST_GUIDANCE, is_joint, refuse_unseen, warn_of_dropped
from data_loaders.errors import BadInput
from data_loaders.records import Record, one_line, read_json, show
from data_loaders.storage import place, shown
from data_loaders.types import Ints, PathLike
from data_loaders.vouchers import sealed, unsealed

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

MOST_BYTES = 1 << 32  # of the file of a plan: a label table of 100 million rows makes one of 2 GB
MOST_SHARDS = 2**31 - 1  # `obs["shard"]` is int32


class Sharded:
    """What all plans share: a number of shards, plain values, a digest. A plan is a frozen dataclass."""

    shard_size: int
    batch_size: int
    device: str

    if TYPE_CHECKING:  # a field of one plan, a sum in another: no attribute here that a dataclass would find

        @property
        def n_cells(self) -> int:
            """Cells in all."""

    def shard_cells(self, shard: int) -> int:
        """Cells of a shard."""
        raise NotImplementedError

    @property
    def n_shards(self) -> int:
        """Shards in all."""
        return -(-self.n_cells // self.shard_size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def to_json(self) -> str:
        """The plan as JSON, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclass(frozen=True)
class Plan(Sharded):
    """A generation, complete: with the bundle it determines every count.

    Attributes
    ----------
    bundle : str
        Digest of the model.
    codes : list of list of int
        Label combinations asked for, (M, K).
    counts : list of int
        Cells of each combination.
    weights : list of float
        Guidance weight of each attribute; one weight for a joint-conditioned model.
    size_factor : {"lognormal", "resample"}
        Law of the size factors.
    solver : str
    steps : int
    batch_size : int
        Cells integrated together. Part of the plan because matrix products round differently for other shapes.
    shard_size : int
    seed : int
    device : {"cpu", "cuda"}
        Where the networks run. Part of the plan because a GPU rounds differently.
    unseen : {"compose", "transfer"}
        How combinations without a training cell are made; see `cfgen_dist.generation.unseen`.
    """

    bundle: str
    codes: list[list[int]]
    counts: list[int]
    weights: list[float]
    size_factor: str
    solver: str
    steps: int
    batch_size: int
    shard_size: int
    seed: int
    device: str = "cpu"
    unseen: str = "compose"  # also of plans made before there was another way

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values; without `unseen` where every combination was seen, as plans were before."""
        values = super().to_dict()
        return values if self.unseen == "transfer" else {key: v for key, v in values.items() if key != "unseen"}

    @cached_property
    def n_cells(self) -> int:
        """Cells in all."""
        return sum(self.counts)

    def shard_codes(self, shard: int) -> Ints:
        """Labels of the cells of a shard.

        Cell i of the list "all cells of combination 0, then of 1, ..." belongs to shard i mod n_shards, so every shard
        holds every combination in its share and shard sizes differ by at most one.

        Returns
        -------
        (n, K) int64 array
        """
        cells = np.arange(shard, self.n_cells, self.n_shards)
        return np.asarray(self.codes, dtype=np.int64)[np.searchsorted(np.cumsum(self.counts), cells, side="right")]

    def shard_cells(self, shard: int) -> int:
        """Cells of a shard."""
        return len(range(shard, self.n_cells, self.n_shards))


def make_plan(
    model: TrainedModel,
    n: int | None = None,
    *,
    labels: Mapping[str, str] | pd.DataFrame | None = None,
    sampling: Sampling = DEFAULTS,
) -> Plan:
    """Resolve a request against a model.

    Parameters
    ----------
    model : TrainedModel
    n, labels
        As in `CFGen.generate`.
    sampling : Sampling

    Returns
    -------
    Plan

    Raises
    ------
    BadInput
        Unknown attribute, category or solver (with the nearest valid name), a number below its minimum.
    """
    settled = settle(sampling, model)
    labels = {} if labels is None else labels
    codes, counts = combinations_of(model, n, labels, settled.seed)
    if not isinstance(labels, pd.DataFrame):
        warn_of_dropped(model, labels, settled.weights)
    refuse_unseen(model, codes, settled.weights)
    way = choose_way(model, codes, counts, sampling.unseen)
    plan = Plan(bundle=model.digest, codes=codes.tolist(), counts=counts.tolist(), unseen=way, **settled._asdict())
    _check_shards(plan)
    return plan


def write_plan(out: PathLike, plan: Plan) -> None:
    """Keep the plan beside the store `out`, for `read_plan`."""
    target = place(out)
    beside = target.beside(target.name + ".plan.json")
    beside.write(json.dumps(sealed(plan.to_dict()), sort_keys=True).encode())


def read_plan(path: PathLike, model: TrainedModel) -> Plan:
    """Read a plan that an earlier generation wrote.

    Parameters
    ----------
    path : path-like
        JSON, on a disk or in a bucket.
    model : TrainedModel
        The model it was made for.

    Returns
    -------
    Plan

    Raises
    ------
    BadInput
        No such file, not a plan, a plan for another bundle, or one with entries that cannot be.
    """
    name = f"plan {shown(path)}"
    try:
        values = read_json(path, Record, name, MOST_BYTES, any_number=True)
    except FileNotFoundError:
        raise BadInput(f"{name} does not exist") from None
    return plan_of(unsealed(values, name, "restore it, or remove that key to use it as it is"), model, name)


def plan_of(values: Mapping[str, Any], model: TrainedModel, name: str) -> Plan:
    """The plan that was read as plain values; BadInput unless it can be carried out with this model."""
    try:
        plan = Plan(**values)
    except TypeError as error:
        raise BadInput(f"{name} cannot be read: {show(one_line(error), quoted=False)}") from error
    if plan.bundle != model.digest:
        raise BadInput(f"{name} is for bundle {one_line(plan.bundle)[:12]}, this one is {model.digest[:12]}")
    wrong = _wrong_entry(plan, model)
    if wrong:
        raise BadInput(f"{name}: {wrong} is {one_line(getattr(plan, wrong))[:60]}, which no plan of this model has")
    check_settings(plan.solver, plan.steps, plan.size_factor, plan.shard_size, plan.seed, plan.device)
    refuse_unseen(model, np.asarray(plan.codes), plan.weights)
    _check_shards(plan)
    return plan


def _check_shards(plan: Plan) -> None:
    if plan.n_shards > MOST_SHARDS:
        raise BadInput(
            f"{plan.n_cells:,} cells in shards of {plan.shard_size:,} are {plan.n_shards:,} shards, expected "
            f"{MOST_SHARDS:,} at most: make `shard_size` larger"
        )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 60


def _wrong_entry(plan: Plan, model: TrainedModel) -> str | None:
    """The first impossible entry of a plan that was read, perhaps edited by hand; None when all are possible."""
    sizes = [len(categories) for categories in model.labels.values()]
    n_weights = 1 if is_joint(model) else len(sizes)

    def is_combination(row: Any) -> bool:
        codes = row if isinstance(row, list) and len(row) == len(sizes) else [None]
        return all(type(code) is int and 0 <= code < n for code, n in zip(codes, sizes or [0], strict=False))

    whole = {name: type(getattr(plan, name)) is int for name in ("steps", "batch_size", "shard_size", "seed")}
    valid = whole | {
        "solver": _is_word(plan.solver),
        "size_factor": _is_word(plan.size_factor),
        "device": _is_word(plan.device),
        "unseen": plan.unseen in ("compose", "transfer"),
        "codes": isinstance(plan.codes, list) and all(map(is_combination, plan.codes)),
        "counts": isinstance(plan.counts, list) and all(type(n) is int and n >= 0 for n in plan.counts),
        "weights": isinstance(plan.weights, list) and all(type(w) in (int, float) for w in plan.weights),
    }
    wrong = next((name for name, is_valid in valid.items() if not is_valid), None)
    if wrong is None:
        fits = {
            "batch_size": plan.batch_size >= 1,
            "counts": len(plan.counts) == len(plan.codes) and 1 <= sum(plan.counts) <= MOST_CELLS,
            "weights": len(plan.weights) == n_weights and all(abs(weight) <= MOST_GUIDANCE for weight in plan.weights),
        }
        wrong = next((name for name, is_valid in fits.items() if not is_valid), None)
    return wrong
