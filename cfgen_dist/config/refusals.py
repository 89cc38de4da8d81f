"""What pydantic finds wrong with a config, as one line that a user can act on."""

from pydantic import BaseModel, ValidationError

from cfgen_dist.config.settings import settings_of
from data_loaders.errors import BadInput, nearest

UNKNOWN = ("extra_forbidden", "invalid_key", "no_such_attribute")
RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_short")


def refusal(error: ValidationError, model: type[BaseModel], where: str, overridden: tuple[str, ...] = ()) -> BadInput:
    """The first of the mistakes, as BadInput; unknown keys come before wrong types, and those before ranges.

    Parameters
    ----------
    error : pydantic.ValidationError
    model : type
        The model that was to be filled: `Config`, or one group of it.
    where : str
        The file, or whatever else the values are from.
    overridden : tuple of str
        Dotted keys whose values are from the command line.
    """
    known = settings_of(model)
    mistake = min(error.errors(include_url=False), key=lambda found: _rank(found["type"]))
    path, found = [str(part) for part in mistake["loc"]], mistake["input"]
    key = next((name for name in (path[0], ".".join(path[:2])) if name in known), ".".join(path))
    place = "command line" if key in overridden else where
    if mistake["type"] in UNKNOWN:
        return BadInput(f"{place}: unknown key {key!r}, {nearest(key, known)}")
    if key not in known:
        return BadInput(f"{place}: {key} is {brief(found)}, expected a group of keys")
    setting = known[key]
    if setting.kind in ("array", "object"):
        holds = "has" if len(path) > key.count(".") + 1 else "is"
        return BadInput(f"{place}: {key} {holds} {brief(found)}, expected {setting.allowed}")
    return BadInput(
        f"{place}: {key} is {brief(found)}, expected {setting.range if mistake['type'] in RANGE else setting.type}"
    )


def brief(value: object) -> str:
    """A value as Python writes it, 200 characters at most."""
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _rank(mistake: str) -> int:
    return 0 if mistake in UNKNOWN else 2 if mistake in RANGE else 1
