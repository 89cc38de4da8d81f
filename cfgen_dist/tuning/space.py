"""Search spaces: a YAML file of distributions, checked against the config tree before anything starts."""

from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from cfgen_dist.config import Config, load_config, settings, to_dict
from cfgen_dist.config.load import MOST_BYTES, plain_yaml
from cfgen_dist.tuning.distributions import Choice, Range, read_distribution
from data_loaders.errors import BadInput, nearest
from data_loaders.records import read_regular
from data_loaders.storage import local_copy, shown

SCHEDULERS = ("asha", "pbt")
# What a flow's cells are judged by: the worst distance to the floor over all measures, or one distance alone.
OBJECTIVES = ("worst", "w2", "w1", "mmd", "mmd_rbf", "w2_all", "mmd_all", "mmd_rbf_all")
STAGES = ("autoencoder", "flow", "sampling")
GROUPS = {  # group of the config -> the stage that searches it
    "autoencoder": "autoencoder", "modalities": "autoencoder", "flow": "flow", "size_factor": "flow",
    "sampling": "sampling",
}  # fmt: skip
# Weights are copied from member to member and the stream's position with them: the rest must stay as it is.
MAY_CHANGE_IN_TRAINING = {
    "autoencoder": (
        "dropout", "input_dropout", "latent_noise", "gene_penalty", "lr", "theta_lr", "weight_decay", "grad_clip",
    ),
    "flow": ("p_cond", "lr", "weight_decay", "grad_clip"),
}  # fmt: skip


Space = dict[str, dict[str, Choice | Range]]  # stage → dotted key of the config → what is tried


def spaces() -> list[str]:
    """Names of the search spaces that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_space(source: str | Path | dict[str, Any], base: Config) -> Space:
    """Read and check a search space.

    Parameters
    ----------
    source : str, Path or dict
        Name of a packaged space, a YAML file, or what such a file holds.
    base : Config
        Settled; what the space leaves out stays as it is there.

    Returns
    -------
    dict of str to dict of str to (Choice or Range)
        Stage → dotted key of the config → distribution.

    Raises
    ------
    BadInput
        Unknown group, key or distribution (with the nearest valid name), a distribution that does not suit the key's
        type, values outside the key's range.
    """
    values, where = (source, "search space") if isinstance(source, dict) else (_read(source), f"search space {source}")
    if not isinstance(values, dict):
        raise BadInput(f"{where}: holds a {type(values).__name__}, expected groups of keys: {', '.join(GROUPS)}")
    space: Space = {stage: {} for stage in STAGES}
    known = settings()
    for group, keys in values.items():
        if group not in GROUPS:
            raise BadInput(f"{where}: unknown group {str(group)!r}, {nearest(group, GROUPS)}")
        if not isinstance(keys, dict | None):
            raise BadInput(f"{where}: {group} is {keys!r}, expected keys with a distribution each")
        for name, given in (keys or {}).items():
            key = f"{group}.{name}"
            if key not in known:
                raise BadInput(f"{where}: unknown key {key!r}, {nearest(key, known)}")
            found = _distribution(key, given, base, where)
            if found is not None:
                space[GROUPS[group]][key] = found
    for key, distribution in space["sampling"].items():
        if key not in ("sampling.guidance", "sampling.steps"):
            raise BadInput(f"{where}: {key} is not searched, expected sampling.guidance or sampling.steps")
        if not isinstance(distribution, Choice):
            raise BadInput(f"{where}: {key} is scored value by value, expected choice: [values]")
    return space


def check_changeable(space: Space, where: str) -> None:
    """Refuse keys that population-based training cannot change; `where` names the space in the message."""
    for stage, names in MAY_CHANGE_IN_TRAINING.items():
        for key, distribution in space[stage].items():
            allowed = [f"{stage}.{name}" for name in names]
            if key not in allowed:
                raise BadInput(f"{where}: {key} cannot change while a network is trained, pbt searches {allowed}")
            if not isinstance(distribution, Range):
                raise BadInput(f"{where}: {key} is changed by factors in pbt, expected uniform or loguniform")


def base_values(keys: Iterable[str], base: Config) -> dict[str, Any]:
    """The base config's own values of dotted keys."""
    return {key: _value(base, key) for key in keys}


def as_json(space: Space) -> dict[str, dict[str, Any]]:
    """The space as plain values that `load_space` reads back, to compare and to keep."""
    groups: dict[str, dict[str, Any]] = {}
    for keys in space.values():
        for key, d in keys.items():
            group, _, name = key.partition(".")
            if isinstance(d, Choice):
                plain: dict[str, Any] = {"choice": list(d.values)}
            else:
                plain = {"loguniform" if d.log else "uniform": [d.low, d.high]}
            groups.setdefault(group, {})[name] = plain
    return groups


def _folder() -> Traversable:
    return resources.files("cfgen_dist.tuning").joinpath("spaces")


def _read(source: str | Path) -> Any:
    path = shown(source)
    if path.endswith((".yaml", ".yml")):
        try:
            with local_copy(source) as local:
                text = read_regular(local, f"search space {path}", MOST_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            raise BadInput(f"search space {path} does not exist") from None
    elif str(source) in spaces():
        text = _folder().joinpath(f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise BadInput(f"search space {str(source)!r} is neither a YAML file nor one of: {', '.join(spaces())}")
    return plain_yaml(text, f"search space {path}") or {}


def _distribution(key: str, given: Any, base: Config, where: str) -> Choice | Range | None:
    """The checked distribution of one key; None where only the base's own value is left."""
    whole = settings()[key].kind == "integer"
    kind, values = read_distribution(key, given, where, numeric=whole or settings()[key].kind == "number")
    if kind in ("uniform", "loguniform"):
        low, high = (_checked(key, value, base, where) for value in values)
        return Range(low, high, kind == "loguniform", whole)
    if kind == "times":
        values = [value * _value(base, key) for value in values]
        values = [round(value) for value in values] if whole else values
    elif key.endswith("covariate"):  # auto is the first label, and nothing where there is none
        first = (base.labels or [])[:1]
        values = [name for value in values for name in (first if value == "auto" else [value])]
    checked: list[Any] = []
    for value in values:
        value = _checked(key, value, base, where)
        if value not in checked:
            checked.append(value)
    return None if checked == [_value(base, key)] else Choice(tuple(checked))


def _checked(key: str, value: Any, base: Config, where: str) -> Any:
    """The value as the config tree holds it, or BadInput."""
    values = to_dict(base)
    *groups, name = key.split(".")
    place = values
    for group in groups:
        place = place[group]
    place[name] = value
    try:
        return _value(load_config(values), key)
    except BadInput as error:
        raise BadInput(f"{where}: {str(error).removeprefix('config: ')}") from None


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
