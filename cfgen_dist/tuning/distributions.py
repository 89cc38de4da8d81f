"""What is tried for one key: the distributions that a search-space file may name, and how Optuna draws from them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from data_loaders.errors import BadInput, nearest


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, evenly or (`log`) evenly over orders of magnitude; `whole` numbers only."""

    low: float
    high: float
    log: bool
    whole: bool


Keys = Mapping[str, Choice | Range]  # dotted key of the config → what is tried


def _number(value: Any) -> float:
    """A finite number, also where YAML reads 1e-3 as text; whole numbers stay ints."""
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PydanticCustomError("number", "expected a number")
    return number


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("list", "expected a list")
    return value


def _ends(values: list[float]) -> list[float]:
    if len(values) != 2:
        raise PydanticCustomError("ends", "expected [low, high]")
    if not values[0] < values[1]:
        raise PydanticCustomError("ends", "expected low below high")
    return values


def _positive(values: list[float]) -> list[float]:
    if values[0] <= 0:
        raise PydanticCustomError("ends", "expected low above 0")
    return values


Number = Annotated[float, PlainValidator(_number)]
Numbers = Annotated[list[Number], BeforeValidator(_list)]
Values = Annotated[list[Any], BeforeValidator(_list)]
Ends = Annotated[Numbers, AfterValidator(_ends)]
PositiveEnds = Annotated[Ends, AfterValidator(_positive)]


class Distribution(BaseModel):
    """What a search-space file says of one key: one of these names, with a list."""

    model_config = ConfigDict(extra="forbid")

    choice: Values = Field(default=[], description="one of the values")
    uniform: Ends = Field(default=[], description="any number from low to high; whole numbers where the key wants them")
    loguniform: PositiveEnds = Field(default=[], description="as uniform, but evenly over orders of magnitude")
    times: Numbers = Field(default=[], description="the base config's value times one of the factors")


def read_distribution(key: str, given: Any, where: str, numeric: bool) -> tuple[str, list[Any]]:
    """The name of a distribution and its checked list.

    Parameters
    ----------
    key : str
        Of the config, for the message.
    given : object
        What the file says of it, such as `{"uniform": [0, 1]}`.
    where : str
        Names the space in the message.
    numeric : bool
        Whether the key takes numbers: others can only be chosen from values.

    Raises
    ------
    BadInput
        Not one distribution, an unknown one, one for numbers where the key takes none, a list that does not fit.
    """
    if not isinstance(given, dict) or len(given) != 1:
        raise BadInput(f"{where}: {key} is {given!r}, expected one distribution such as {{choice: [values]}}")
    ((kind, values),) = given.items()
    if kind not in Distribution.model_fields:
        known = nearest(kind, Distribution.model_fields)
        raise BadInput(f"{where}: {key} has the unknown distribution {str(kind)!r}, {known}")
    if kind != "choice" and not numeric:
        raise BadInput(f"{where}: {key} is no number, expected choice, not {kind}")
    try:
        return kind, getattr(Distribution.model_validate(given), kind)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        found = f"{kind}: {values!r}" if len(mistake["loc"]) == 1 else repr(mistake["input"])
        raise BadInput(f"{where}: {key} has {found}, {mistake['msg']}") from None


def to_optuna(keys: Keys) -> dict[str, Any]:
    """Dotted key → Optuna's distribution; choices as JSON text, since Optuna has no lists."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, d in keys.items():
        if isinstance(d, Choice):
            found[key] = CategoricalDistribution([json.dumps(value) for value in d.values])
        elif d.whole:
            found[key] = IntDistribution(int(d.low), int(d.high), log=d.log)
        else:
            found[key] = FloatDistribution(d.low, d.high, log=d.log)
    return found


def encode(values: Mapping[str, Any], keys: Keys) -> dict[str, Any] | None:
    """Values as Optuna's parameters; None when one of them lies outside the space."""
    encoded = {}
    for key, d in keys.items():
        value = values[key]
        if isinstance(d, Choice):
            if value not in d.values:
                return None
            encoded[key] = json.dumps(value)
        else:
            if value is None or not d.low <= value <= d.high:
                return None
            encoded[key] = value
    return encoded


def decode(params: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """Optuna's parameters as values."""
    return {key: json.loads(params[key]) if isinstance(d, Choice) else params[key] for key, d in keys.items()}
