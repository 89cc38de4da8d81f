"""What to generate, decided before anything starts: the label of every cell, the shards, guidance, solver, seed."""

import dataclasses
import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cfgen_dist.model.solvers import ADAPTIVE, SOLVERS
from data_loaders.errors import BadInput, nearest
from data_loaders.seeds import Generation, generator

log = logging.getLogger("cfgen_dist")
SHARD_SIZE = 4096
MOST_CELLS = 10**12
SIZE_FACTOR_LAWS = ("lognormal", "resample")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Plan:
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
    """

    bundle: str
    codes: list
    counts: list
    weights: list
    size_factor: str
    solver: str
    steps: int
    batch_size: int
    shard_size: int
    seed: int
    device: str = "cpu"

    @cached_property
    def n_cells(self):
        """Cells in all."""
        return sum(self.counts)

    @property
    def n_shards(self):
        """Shards in all."""
        return -(-self.n_cells // self.shard_size)

    def shard_codes(self, shard):
        """Labels of the cells of a shard.

        Cell i of the list "all cells of combination 0, then of 1, ..." belongs to shard i mod n_shards, so every shard
        holds every combination in its share and shard sizes differ by at most one.

        Returns
        -------
        (n, K) int64 array
        """
        cells = np.arange(shard, self.n_cells, self.n_shards)
        return np.asarray(self.codes, dtype=np.int64)[np.searchsorted(np.cumsum(self.counts), cells, side="right")]

    def shard_cells(self, shard):
        """Cells of a shard."""
        return len(range(shard, self.n_cells, self.n_shards))

    @cached_property
    def digest(self):
        """SHA-256 of the plan, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_dict(self):
        """The plan as plain values."""
        return dataclasses.asdict(self)

    def to_json(self):
        """The plan as JSON, keys sorted."""
        return json.dumps(self.to_dict(), sort_keys=True)


def make_plan(
    model, n=None, *, labels=None, guidance=None, size_factor=None, solver=None, steps=None, seed=0,
    shard_size=SHARD_SIZE, device="cpu",
):  # fmt: skip
    """Resolve a request against a model.

    Parameters
    ----------
    model : CFGen
    n, labels, guidance, solver, steps, seed
        As in `CFGen.generate`.
    size_factor : {"lognormal", "resample"}, optional
        Law of the size factors; the bundle's by default.
    shard_size : int
    device : {"cpu", "cuda"}

    Returns
    -------
    Plan

    Raises
    ------
    BadInput
        Unknown attribute, category or solver (with the nearest valid name), a number below its minimum.
    """
    solver = solver or model.config.sampling.solver
    steps = model.config.sampling.steps if steps is None else steps
    size_factor = size_factor or model.size_factor.kind
    check_settings(solver, steps, size_factor, shard_size, seed, device)
    if isinstance(labels, pd.DataFrame):
        codes, counts = _from_table(model, labels)
        if n is not None and n != counts.sum():
            raise BadInput(
                f"number of cells is {n}, but the label table asks for {counts.sum()}: leave one of them out"
            )
    else:
        if n is None:
            raise BadInput("number of cells: none given; expected --cells N, or a label table")
        if not 1 <= n <= MOST_CELLS:
            raise BadInput(f"number of cells is {n}, expected 1 to {MOST_CELLS:,}")
        codes, counts = _from_proportions(model, n, labels or {}, seed)
    weights = guidance_weights(model, guidance)
    if not isinstance(labels, pd.DataFrame):
        _warn_of_dropped(model, labels or {}, weights)
    refuse_unseen(model, codes, weights)
    return Plan(
        bundle=model.digest,
        codes=codes.tolist(),
        counts=counts.tolist(),
        weights=weights,
        size_factor=size_factor,
        solver=solver,
        steps=steps,
        batch_size=model.config.sampling.batch_size,
        shard_size=shard_size,
        seed=seed,
        device=device,
    )


def check_settings(solver, steps, size_factor, shard_size, seed, device):
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


def _warn_of_dropped(model, fixed, weights):
    """Say so when an attribute was fixed and its guidance dropped: cells are labelled so, but not made so."""
    weights = weights * len(model.labels) if model.config.flow.conditioning == "joint" else weights
    for name, weight in zip(model.labels, weights, strict=True):
        if name in fixed and weight == 0:
            log.warning(
                "%s=%s is fixed, but its guidance weight is 0: cells are labelled so and not made so; "
                "guidance %s=1 makes them so", name, fixed[name], name,
            )  # fmt: skip


def refuse_unseen(model, codes, weights):
    """Raise `BadInput` for codes (N, K) with a category that no fitted cell had: its embedding was never trained."""
    weights = weights * len(model.labels) if model.config.flow.conditioning == "joint" else weights
    for k, (name, categories) in enumerate(model.labels.items()):
        unseen = np.setdiff1d(codes[:, k], model.combinations[:, k])
        if len(unseen) and weights[k] != 0:
            raise BadInput(
                f"{name}: no training cell was {categories[unseen[0]]!r}, so the model has not learned it; "
                f"guidance {name}=0 leaves {name} out"
            )


def _from_table(model, table):
    """Combinations and counts of a table with a column per attribute and, optionally, `n`."""
    for column in table.columns:
        if column != "n" and column not in model.labels:
            raise BadInput(f"label table: unknown column {column!r}, {nearest(column, [*model.labels, 'n'])}")
    for name in model.labels:
        if name not in table:
            raise BadInput(f"label table: column {name!r} is missing, found {', '.join(map(str, table.columns))}")
    codes = model.codes(table.astype(dict.fromkeys(model.labels, str)))
    counts = pd.to_numeric(table["n"], errors="coerce").to_numpy() if "n" in table else np.ones(len(table))
    wrong = ~((counts >= 0) & (counts <= MOST_CELLS)) | (counts != np.floor(counts))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        found = table["n"].tolist()[row]
        raise BadInput(f"label table: n is {found!r} in row {row}, expected a whole number, zero or more")
    if not 1 <= counts.sum() <= MOST_CELLS:
        raise BadInput(f"label table: it asks for {counts.sum():.0f} cells, expected 1 to {MOST_CELLS:,}")
    return codes, counts.astype(np.int64)


def _from_proportions(model, n, fixed, seed):
    """Draw how many cells each observed combination gets, some attributes being fixed."""
    names = list(model.labels)
    for name in fixed:
        if name not in names:
            raise BadInput(f"the model has no attribute {name!r}, {nearest(name, names)}")
        if not isinstance(fixed[name], str):
            raise BadInput(f"label {name} is {fixed[name]!r}, expected one category; a table asks for several")
    codes = model.combinations.copy()
    weights = model.counts.astype(np.float64)
    wanted = {names.index(name): int(model.codes_of(name, value)[0]) for name, value in fixed.items()}
    if wanted:
        matches = np.all([codes[:, k] == code for k, code in wanted.items()], axis=0)
        if matches.any():
            codes, weights = codes[matches], weights[matches]
        else:  # a combination never seen together: the other attributes are drawn as if independent of it
            for k, code in wanted.items():
                codes[:, k] = code
            codes, inverse = np.unique(codes, axis=0, return_inverse=True)
            weights = np.bincount(inverse.reshape(-1), weights=weights)
    rng = generator(seed, Generation.PLAN)
    counts = rng.multinomial(n, weights / weights.sum())
    return codes[counts > 0], counts[counts > 0]


def guidance_weights(model, guidance):
    """Guidance weights in the order of the model's attributes."""
    names = list(model.labels)
    if guidance is None:
        weight = model.config.sampling.guidance
        return [weight] if model.config.flow.conditioning == "joint" else [weight] * len(names)
    for name, weight in guidance.items():
        if name not in names:
            raise BadInput(f"guidance for {name!r}, but the model has no such attribute, {nearest(name, names)}")
        if not np.isfinite(weight):
            raise BadInput(f"guidance of {name} is {weight}, expected a finite number")
    if model.config.flow.conditioning == "joint":
        if set(guidance) != set(names) or len(set(guidance.values())) != 1:
            raise BadInput(
                f"the model was trained on joint labels: guidance must give {', '.join(names)} one common weight"
            )
        return [float(next(iter(guidance.values())))]
    return [float(guidance.get(name, 0.0)) for name in names]


def read_label_table(path):
    """Read a CSV or Parquet table of labels; BadInput when it cannot be read."""
    try:
        return (
            pd.read_parquet(path)
            if str(path).endswith(".parquet")
            else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except FileNotFoundError:
        raise BadInput(f"label table {path} does not exist") from None
    except (ValueError, OSError) as error:
        raise BadInput(f"label table {path} cannot be read: {' '.join(str(error).split())}") from error


def read_plan(path, model):
    """Read a plan that an earlier generation wrote.

    Parameters
    ----------
    path : path-like
        JSON.
    model : CFGen
        The model it was made for.

    Returns
    -------
    Plan

    Raises
    ------
    BadInput
        No such file, not a plan, a plan for another bundle, or one with entries that cannot be.
    """
    try:
        plan = Plan(**json.loads(Path(path).read_text()))
    except FileNotFoundError:
        raise BadInput(f"plan {path} does not exist") from None
    except (ValueError, TypeError, OSError) as error:
        raise BadInput(f"plan {path} cannot be read: {' '.join(str(error).split())}") from error
    if plan.bundle != model.digest:
        raise BadInput(f"plan {path} is for bundle {str(plan.bundle)[:12]}, this one is {model.digest[:12]}")
    wrong = _wrong_entry(plan, model)
    if wrong:
        raise BadInput(f"plan {path}: {wrong} is {str(getattr(plan, wrong))[:60]}, which no plan of this model has")
    check_settings(plan.solver, plan.steps, plan.size_factor, plan.shard_size, plan.seed, plan.device)
    refuse_unseen(model, np.asarray(plan.codes), plan.weights)
    return plan


def _wrong_entry(plan, model):
    """Name of an entry of a plan that was read, perhaps edited by hand, that cannot be; None when all can."""
    sizes = [len(categories) for categories in model.labels.values()]
    n_weights = 1 if model.config.flow.conditioning == "joint" else len(sizes)

    def is_combination(row):
        codes = row if isinstance(row, list) and len(row) == len(sizes) else [None]
        return all(type(code) is int and 0 <= code < n for code, n in zip(codes, sizes or [0], strict=False))

    whole = {name: type(getattr(plan, name)) is int for name in ("steps", "batch_size", "shard_size", "seed")}
    valid = whole | {
        "solver": isinstance(plan.solver, str),
        "size_factor": isinstance(plan.size_factor, str),
        "device": isinstance(plan.device, str),
        "codes": isinstance(plan.codes, list) and all(map(is_combination, plan.codes)),
        "counts": isinstance(plan.counts, list) and all(type(n) is int and n >= 0 for n in plan.counts),
        "weights": isinstance(plan.weights, list) and all(isinstance(w, int | float) for w in plan.weights),
    }
    wrong = next((name for name, is_valid in valid.items() if not is_valid), None)
    if wrong is None:
        fits = {
            "batch_size": plan.batch_size >= 1,
            "counts": len(plan.counts) == len(plan.codes) and 1 <= sum(plan.counts) <= MOST_CELLS,
            "weights": len(plan.weights) == n_weights and all(map(np.isfinite, plan.weights)),
        }
        wrong = next((name for name, is_valid in fits.items() if not is_valid), None)
    return wrong
