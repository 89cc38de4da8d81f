"""What a bundle must be, whoever wrote it: the form of its card, and of the arrays and weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from cfgen_dist.model.likelihoods import LIKELIHOODS
from data_loaders.errors import BadInput
from data_loaders.names import is_storable
from data_loaders.records import Record, Sha256, Whole

if TYPE_CHECKING:
    from torch import nn

    from cfgen_dist.config import Config
    from data_loaders.types import Array

    Check = Callable[[Array], bool]

FORMATS = (1, 2)  # 2: with a calibration, which older programs would leave out without a word
MOST_BLOCKS = 10_000  # of the velocity network
MOST_WEIGHT = 100.0  # of a change that is lent to combinations never seen
Names = Annotated[list[str], Field(min_length=1)]


class LawFacts(Record):
    """What the card says of the law of size factors."""

    kind: Literal["lognormal", "resample"]
    covariate: str | None


class Origin(Record):
    """The atlas that a model was trained on."""

    path: str = ""
    fingerprint: str | None = None
    n_cells: Whole = 0


class Provenance(Record):
    """Where a model came from."""

    atlas: Origin = Origin()
    training: dict[str, float] = Field(default={})
    versions: dict[str, str] = Field(default={})


class LearnedChange(Record):
    """What leaving out combinations taught of an attribute; see `cfgen_dist.model.transfer.Lesson`."""

    weight: Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]
    combinations: Whole
    way: float


class Combinations(Record):
    """How many combinations of labels are possible, how many were seen, and in few cells."""

    possible: Whole
    seen: Whole
    rare: Whole


class BundleCard(Record):
    """The form of `card.json`."""

    format: int
    model: Literal["CFGen"]
    labels: dict[str, Names]
    size_factor: LawFacts
    size_factor_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    config: dict[str, Any]
    provenance: Provenance
    genes: Names
    features: dict[str, Names] = Field(default={})
    combinations: Combinations | None = None
    transfer: dict[str, LearnedChange] = Field(default={})
    calibration: dict[str, dict[str, float]] = Field(default={})
    sha256: dict[str, Sha256]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for name, categories in self.labels.items():
            if len(set(categories)) != len(categories):
                raise ValueError(f"labels.{name}: a category stands there twice")
        for name in (*self.labels, *self.features):  # columns and matrices of the stores that are generated
            if not is_storable(name):
                raise ValueError(f"{name!r}: a store cannot have this name")
        covariate = self.size_factor.covariate
        if covariate is not None and covariate not in self.labels:
            raise ValueError(f"size_factor.covariate is {covariate!r}, which is no label of the model")
        if self.size_factor_range and not self.size_factor_range[0] <= self.size_factor_range[1]:
            raise ValueError("size_factor_range: expected the smaller number first")
        if "rna" in self.features:
            raise ValueError("features: rna is there, whose features are the genes")
        return self


def check_config(config: Config, card: Mapping[str, Any], name: str) -> None:
    """Refuse settings that do not fit the labels and modalities of the card, or that no network has."""
    labels, features = card["labels"], card.get("features", {})
    covariate = config.autoencoder.theta_covariate
    if covariate is not None and covariate not in labels:
        raise BadInput(f"{name}: config.autoencoder.theta_covariate is {covariate!r}, which is no label of the model")
    if config.labels is not None and list(config.labels) != list(labels):
        raise BadInput(f"{name}: config.labels are not the labels of the model")
    odd = set(config.modalities.likelihood) - {"rna"} ^ set(features)
    if odd:
        raise BadInput(f"{name}: modality {min(odd)!r} is not in both of config.modalities.likelihood and features")
    if max(config.flow.blocks, len(config.autoencoder.hidden), len(config.modalities.hidden)) > MOST_BLOCKS:
        raise BadInput(f"{name}: config has more than {MOST_BLOCKS:,} layers")


def fill(build: Callable[[], nn.Module], state: Mapping[str, torch.Tensor], name: str, way_on: str = "") -> Any:
    """Build a network and give it the weights in `state`.

    Names, shapes and types are compared before any memory is taken: a config may ask for a network of any size.

    Parameters
    ----------
    build : callable () -> torch.nn.Module
    state : dict of str to tensor
    name : str
        Where the weights are, for messages.
    way_on : str
        What to do, for messages.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    BadInput
        Weights that are missing, of another shape or type, not of this network, or not finite.
    """
    try:
        with torch.device("meta"):
            expected = build().state_dict()
    except (RuntimeError, OverflowError, MemoryError, TypeError):  # more numbers than can be counted
        raise BadInput(f"{name}: the config asks for a network that cannot be{way_on}") from None
    check_state(expected, state, name, way_on)
    try:
        network = build()
    except (RuntimeError, OverflowError, ValueError):  # a start value that float32 does not hold
        raise BadInput(f"{name}: the config has a number that no network can have{way_on}") from None
    network.load_state_dict(dict(state))
    return network


def check_state(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], name: str, way_on: str = ""
) -> None:
    """Refuse weights that are not those of a network whose state is `expected`, or that are not finite."""
    missing = next((key for key in expected if key not in state), None)
    if missing is not None:
        raise BadInput(f"{name}: the weights {missing!r} are missing{way_on}")
    for key, found in state.items():
        wanted = expected.get(key)
        if wanted is None or not isinstance(found, torch.Tensor):
            raise BadInput(f"{name}: {str(key)[:60]!r} is no weight of this network{way_on}")
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            told, asked = (f"{str(each.dtype)[6:]} {tuple(each.shape)}" for each in (found, wanted))
            raise BadInput(f"{name}: {key} is {told}, expected {asked}{way_on}")
        if found.is_floating_point() and not found.isfinite().all():
            raise BadInput(f"{name}: {key} has weights that are not finite{way_on}")


def check_arrays(
    arrays: Mapping[str, Array], table: Mapping[str, Array], card: Mapping[str, Any], config: Config, name: str
) -> None:
    """Refuse size factors and label combinations that do not fit the card or that nothing can be drawn from.

    Parameters
    ----------
    arrays : dict of str to array
        Of the law of size factors.
    table : dict of str to array
        Label combinations of the training cells, and their numbers.
    card : dict
    config : Config
    name : str
        For messages.
    """
    sizes = [len(categories) for categories in card["labels"].values()]
    covariate = card["size_factor"]["covariate"]
    n = len(card["labels"][covariate]) if covariate is not None else 1
    sized = [each for each in card.get("features", {}) if _is_sized(config, each)]
    length = len(arrays["values"]) if getattr(arrays.get("values"), "ndim", 0) else 0
    finite: Check = lambda values: bool(np.isfinite(values).all())  # noqa: E731
    positive: Check = lambda values: bool(np.isfinite(values).all() and (values > 0).all())  # noqa: E731
    rules: dict[str, tuple[str, tuple[int, ...], Check]] = {
        "mean": ("float64", (n,), finite),
        "std": ("float64", (n,), lambda values: bool(np.isfinite(values).all() and (values >= 0).all())),
        "values": ("float64", (max(length, 1),), positive),
        "offsets": ("int64", (n + 1,), lambda values: _are_offsets(values, length)),
        **{f"values.{each}": ("float64", (length,), positive) for each in sized},
    }
    _check_each(arrays, rules, f"{name}: size factors")
    m = len(table["combinations"]) if getattr(table.get("combinations"), "ndim", 0) else 0
    _check_each(
        table,
        {
            "combinations": (
                "int64",
                (max(m, 1), len(sizes)),
                lambda codes: bool(((codes >= -1) & (codes < np.array(sizes, np.int64))).all()),  # -1: no label
            ),
            "counts": ("int64", (m,), lambda counts: bool((counts > 0).all() and counts.max() < 1 << 53)),
            **({"mean_log_size": ("float64", (m,), finite)} if "mean_log_size" in table else {}),
        },
        f"{name}: label combinations",
    )  # fmt: skip


def _check_each(
    arrays: Mapping[str, Array], rules: Mapping[str, tuple[str, tuple[int, ...], Check]], name: str
) -> None:
    odd = sorted(set(arrays) ^ set(rules))
    if odd:
        raise BadInput(f"{name}: {odd[0][:60]!r} is {'missing' if odd[0] in rules else 'one array too many'}")
    for key, (dtype, shape, holds) in rules.items():
        array = arrays[key]
        if array.dtype != dtype or array.shape != shape:
            raise BadInput(f"{name}: {key} is {array.dtype} {array.shape}, expected {dtype} {shape}")
        if not holds(array):
            raise BadInput(f"{name}: {key} has values that cannot be")


def _are_offsets(values: Array, length: int) -> bool:
    return bool(values[0] == 0 and values[-1] == length and (np.diff(values) > 0).all())


def _is_sized(config: Config, modality: str) -> bool:
    return LIKELIHOODS[config.modalities.likelihood[modality]].scales_with_size_factor
