"""Search spaces: a YAML file of distributions, checked against the config tree before anything starts."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from cfgen_dist.config import load_config, settings, to_dict
from data_loaders.errors import BadInput, nearest

SCHEDULERS = ("asha", "pbt")
OBJECTIVES = ("w2", "w1", "mmd", "mmd_rbf", "w2_all", "mmd_all", "mmd_rbf_all")  # distances of a flow's cells
STAGES = ("autoencoder", "flow", "sampling")
GROUPS = {  # group of the config -> the stage that searches it
    "autoencoder": "autoencoder", "modalities": "autoencoder", "flow": "flow", "size_factor": "flow",
    "sampling": "sampling",
}  # fmt: skip
DISTRIBUTIONS = ("choice", "uniform", "loguniform", "times")
# Weights are copied from member to member and the stream's position with them: the rest must stay as it is.
MAY_CHANGE_IN_TRAINING = {
    "autoencoder": (
        "dropout", "input_dropout", "latent_noise", "gene_penalty", "lr", "theta_lr", "weight_decay", "grad_clip",
    ),
    "flow": ("p_cond", "lr", "weight_decay", "grad_clip"),
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, evenly or (`log`) evenly over orders of magnitude; `whole` numbers only."""

    low: float
    high: float
    log: bool
    whole: bool


def spaces():
    """Names of the search spaces that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_space(source, base):
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
    space = {stage: {} for stage in STAGES}
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
            found = _distribution(key, given, known[key].kind, base, where)
            if found is not None:
                space[GROUPS[group]][key] = found
    for key, distribution in space["sampling"].items():
        if key not in ("sampling.guidance", "sampling.steps"):
            raise BadInput(f"{where}: {key} is not searched, expected sampling.guidance or sampling.steps")
        if not isinstance(distribution, Choice):
            raise BadInput(f"{where}: {key} is scored value by value, expected choice: [values]")
    return space


def check_changeable(space, where):
    """Refuse keys that population-based training cannot change; `where` names the space in the message."""
    for stage, names in MAY_CHANGE_IN_TRAINING.items():
        for key, distribution in space[stage].items():
            allowed = [f"{stage}.{name}" for name in names]
            if key not in allowed:
                raise BadInput(f"{where}: {key} cannot change while a network is trained, pbt searches {allowed}")
            if not isinstance(distribution, Range):
                raise BadInput(f"{where}: {key} is changed by factors in pbt, expected uniform or loguniform")


def base_values(keys, base):
    """The base config's own values of dotted keys."""
    return {key: _value(base, key) for key in keys}


def as_json(space):
    """The space as plain values that `load_space` reads back, to compare and to keep."""
    groups = {}
    for keys in space.values():
        for key, d in keys.items():
            group, _, name = key.partition(".")
            plain = {"choice": list(d.values)} if isinstance(d, Choice) else {_kind(d): [d.low, d.high]}
            groups.setdefault(group, {})[name] = plain
    return groups


def _kind(distribution):
    return "loguniform" if distribution.log else "uniform"


def to_optuna(keys):
    """Dotted key → Optuna's distribution; choices as JSON text, since Optuna has no lists."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = {}
    for key, d in keys.items():
        if isinstance(d, Choice):
            found[key] = CategoricalDistribution([json.dumps(value) for value in d.values])
        else:
            found[key] = (IntDistribution if d.whole else FloatDistribution)(d.low, d.high, log=d.log)
    return found


def encode(values, keys):
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


def decode(params, keys):
    """Optuna's parameters as values."""
    return {key: json.loads(params[key]) if isinstance(d, Choice) else params[key] for key, d in keys.items()}


def _folder():
    return resources.files("cfgen_dist.tuning").joinpath("spaces")


def _read(source):
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise BadInput(f"search space {path} does not exist")
        text = path.read_text(encoding="utf-8", errors="replace")
    elif str(source) in spaces():
        text = _folder().joinpath(f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise BadInput(f"search space {str(source)!r} is neither a YAML file nor one of: {', '.join(spaces())}")
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"search space {source} is not valid YAML: {' '.join(str(error).split())}") from None


def _distribution(key, given, kind_of_value, base, where):
    """The checked distribution of one key; None where only the base's own value is left."""
    if not isinstance(given, dict) or len(given) != 1:
        raise BadInput(f"{where}: {key} is {given!r}, expected one distribution such as {{choice: [values]}}")
    ((kind, values),) = given.items()
    if kind not in DISTRIBUTIONS:
        raise BadInput(f"{where}: {key} has the unknown distribution {str(kind)!r}, {nearest(kind, DISTRIBUTIONS)}")
    if not isinstance(values, list) or not values:
        raise BadInput(f"{where}: {key} has {kind}: {values!r}, expected a list")
    whole = kind_of_value == "integer"
    if kind != "choice" and not (whole or kind_of_value == "number"):
        raise BadInput(f"{where}: {key} is no number, expected choice, not {kind}")
    if kind == "times":
        values = [_number(value, key, where) * _value(base, key) for value in values]
        values = [round(value) for value in values] if whole else values
    elif key.endswith("covariate"):
        values = [base.labels[0] if value == "auto" and base.labels else value for value in values if value != "auto"
                  or base.labels]  # fmt: skip
    if kind in ("choice", "times"):
        checked = []
        for value in values:
            value = _checked(key, value, base, where)
            if value not in checked:
                checked.append(value)
        return None if checked == [_value(base, key)] else Choice(tuple(checked))
    if len(values) != 2:
        raise BadInput(f"{where}: {key} has {kind}: {values!r}, expected [low, high]")
    low, high = (_checked(key, _number(value, key, where), base, where) for value in values)
    if not low < high:
        raise BadInput(f"{where}: {key} has {kind}: {values!r}, expected low below high")
    if kind == "loguniform" and low <= 0:
        raise BadInput(f"{where}: {key} has loguniform: {values!r}, expected low above 0")
    return Range(low, high, kind == "loguniform", whole)


def _checked(key, value, base, where):
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


def _number(value, key, where):
    """A number, also where YAML reads 1e-3 as text."""
    try:
        return value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: {key} has {value!r}, expected a number") from None


def _value(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config
