"""A checked Config from a preset, a YAML file, values or the command line, and back to YAML."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cfgen_dist.config.refusals import refusal
from cfgen_dist.config.tree import Config, settings
from data_loaders.errors import BadInput, nearest
from data_loaders.files import write_whole
from data_loaders.records import MOST_DEPTH, check_tree, one_line, read_regular, show
from data_loaders.storage import local_copy, shown

MOST_BYTES, MOST_VALUES = 1 << 20, 100_000  # of a config


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(
        f.name.removesuffix(".yaml")
        for f in resources.files("cfgen_dist").joinpath("presets").iterdir()
        if f.name.endswith(".yaml")
    )


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Build a checked Config.

    Parameters
    ----------
    source : str, Path or dict, optional
        Name of a preset, a YAML file, or the values themselves.
    overrides : dict of str to object, optional
        Dotted keys, e.g. ``{"flow.batch_size": 512}``. Strings are read as YAML scalars.

    Returns
    -------
    Config

    Raises
    ------
    BadInput
        Unknown preset or key (with the nearest valid name), a value of the wrong type, or one outside its range.
    """
    if source is None or isinstance(source, Mapping):
        values, where = dict(source or {}), "config"
    else:
        values, where = _read(source), str(source)
    for key, value in (overrides or {}).items():
        _override(values, key, _scalar(key, value) if isinstance(value, str) else value)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise refusal(error, Config, where, tuple(overrides or ())) from None


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dicts, lists and scalars."""
    return config.model_dump()


def save_config(config: Config, path: str | Path) -> None:
    """Write the config as YAML that `load_config` reads back."""
    write_whole(path, lambda file: file.write(yaml.safe_dump(to_dict(config), sort_keys=False).encode()))


def _read(source: str | Path) -> dict[str, Any]:
    path = shown(source)
    if path.endswith((".yaml", ".yml")):
        try:
            with local_copy(source) as local:
                text = read_regular(local, f"config file {path}", MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            raise BadInput(f"config file {path} does not exist") from None
        except UnicodeDecodeError:
            raise BadInput(f"config file {path} is not UTF-8 text") from None
    elif str(source) in presets():
        text = resources.files("cfgen_dist").joinpath("presets", f"{source}.yaml").read_text()
    else:
        raise BadInput(f"{str(source)!r} is neither a YAML file nor a preset: {nearest(source, presets())}")
    values = plain_yaml(text, str(source))
    if values is not None and not isinstance(values, dict):
        raise BadInput(f"{source} holds a {type(values).__name__}, expected keys and values")
    return values or {}


def plain_yaml(text: str, name: str) -> Any:
    """YAML of any form, without surprises: no nesting without end, no aliases that make a small file explode."""
    try:
        values = yaml.safe_load(text)
    except RecursionError:
        raise BadInput(f"{name} is not valid YAML: nested too deep, expected {MOST_DEPTH} levels at most") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise BadInput(f"{name} is not valid YAML: {one_line(error)}") from error
    check_tree(values, name, MOST_VALUES)
    return values


def _scalar(key: str, text: str) -> Any:
    try:
        return plain_yaml(text, key)
    except BadInput:
        raise BadInput(f"command line: {key} is {show(text)}, which YAML cannot read") from None


def _override(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value into the nested dicts, copying the group that it changes."""
    if dotted not in settings():
        raise BadInput(f"unknown setting {dotted!r}, {nearest(dotted, settings())}")
    group, _, name = dotted.rpartition(".")
    if not group:
        values[name] = value
    elif isinstance(keys := values.get(group) or {}, Mapping):  # otherwise it is refused with the rest
        values[group] = {**keys, name: value}
