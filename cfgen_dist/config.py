"""The one typed tree of settings, for YAML files, presets, the command line and the saved config."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from data_loaders.errors import BadInput, nearest
from data_loaders.files import write_whole

LIKELIHOODS = ("nb", "bernoulli", "poisson")


@dataclass
class AutoencoderConfig:
    """Counts to latents. Defaults were chosen on validation cells, see docs/quality.md."""

    latent_dim: int = 50
    hidden: list[int] = field(default_factory=lambda: [256, 128])
    input: Literal["log1p", "log1p_cp10k", "proportions"] = "log1p"
    dropout: float = 0.1
    input_dropout: float = 0.1
    latent_noise: float = 0.1
    theta_covariate: str | None = None  # a label column: one theta per gene and category instead of one per gene
    theta_start: float = 10.0
    theta_lr: float = 3e-2
    gene_penalty: float = 120.0  # group lasso on the decoder's last weights, shared out among the training cells
    ema: float = 0.98  # decay of the averaged weights that are validated and kept; 0 turns averaging off
    lr: float = 1e-3
    weight_decay: float = 1e-3
    grad_clip: float = 1.0
    batch_size: int = 128
    max_epochs: int = 300
    patience: int = 10  # epochs without a better held-out likelihood


@dataclass
class ModalitiesConfig:
    """Modalities beside rna: each has an encoder and a decoder of its own, and all share one latent."""

    # modality: nb, bernoulli or poisson; one that is left out is modelled as the atlas's card proposes
    likelihood: dict[str, str] = field(default_factory=dict)
    hidden: list[int] = field(default_factory=lambda: [256, 128])
    code_dim: int = 100  # of each modality's code (rna's too), before the shared layer makes the latent of them


@dataclass
class FlowConfig:
    """Noise to latents."""

    hidden: int = 256
    blocks: int = 4
    embedding: int = 128
    condition_on_size_factor: bool = True
    conditioning: Literal["single", "joint"] = "single"  # one attribute a cell (composable), or all of them at once
    p_cond: float = 0.8
    lr: float = 1e-3
    weight_decay: float = 1e-6
    grad_clip: float = 1.0
    batch_size: int = 256
    max_steps: int | None = None  # null: 2,000, or 30 epochs where that is more, at most 100,000
    ema: float = 0.999  # decay of the averaged weights that the bundle holds; 0 turns averaging off


@dataclass
class SizeFactorConfig:
    """How a new cell gets its size factor."""

    law: Literal["lognormal", "resample"] = "resample"
    covariate: str | None = "auto"  # a law per category of this label; auto: the first label; null: one law


@dataclass
class SamplingConfig:
    """Defaults of generation, kept in the bundle."""

    solver: Literal["euler", "midpoint", "heun", "rk4", "dopri5", "tsit5"] = "midpoint"
    steps: int = 10
    guidance: float = 1.0  # weight of every attribute; more than 1 makes cells more typical, and less diverse
    batch_size: int = 1024


@dataclass
class Config:
    """Everything that `cfgen-dist train` can be told."""

    labels: list[str] | None = None  # attributes to condition on; null: every label column of the atlas
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    refit: bool = True  # once validation cells have chosen the epochs, train again with them among the training cells
    compile: bool = False  # torch.compile: a minute at the start, less memory of the GPU
    all_reduce: Literal["float32", "bfloat16"] = "float32"  # in what workers exchange gradients
    checkpoint_every_n_steps: int = 500
    checkpoint_every_minutes: float | None = None  # besides those every n steps
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    modalities: ModalitiesConfig = field(default_factory=ModalitiesConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    size_factor: SizeFactorConfig = field(default_factory=SizeFactorConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def presets():
    """Names of the presets that come with the package."""
    return sorted(
        f.name.removesuffix(".yaml")
        for f in resources.files("cfgen_dist").joinpath("presets").iterdir()
        if f.name.endswith(".yaml")
    )


def load_config(source=None, overrides=None):
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
    values, where = (source or {}), "config"
    if source is not None and not isinstance(source, dict):
        values, where = _read(source), str(source)
    config = _build(Config, values, where, "")
    for key, value in (overrides or {}).items():
        _override(config, key, _scalar(key, value) if isinstance(value, str) else value)
    _check(config)
    return config


def to_dict(config):
    """The config as plain dicts, lists and scalars."""
    return dataclasses.asdict(config)


def save_config(config, path):
    """Write the config as YAML that `load_config` reads back."""
    write_whole(path, lambda file: file.write(yaml.safe_dump(to_dict(config), sort_keys=False).encode()))


def all_keys(cls=Config, prefix=""):
    """Yield (dotted key, type, default) of every setting."""
    defaults, hints = cls(), typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from all_keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, hints[item.name], getattr(defaults, item.name)


def _read(source):
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise BadInput(f"config file {path} does not exist")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"config file {path} is not UTF-8 text") from None
    elif str(source) in presets():
        text = resources.files("cfgen_dist").joinpath("presets", f"{source}.yaml").read_text()
    else:
        raise BadInput(f"{str(source)!r} is neither a YAML file nor a preset: {nearest(source, presets())}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise BadInput(f"{source} holds a {type(values).__name__}, expected keys and values")
    return values or {}


def _build(cls, values, where, prefix):
    hints = typing.get_type_hints(cls)
    built = cls()
    for key, value in values.items():
        if key not in hints:
            known = [k for k, _, _ in all_keys()]
            raise BadInput(f"{where}: unknown key {prefix + str(key)!r}, {nearest(prefix + str(key), known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict | None):
                raise BadInput(f"{where}: {prefix}{key} is {value!r}, expected a group of keys")
            setattr(built, key, _build(hints[key], value or {}, where, f"{prefix}{key}."))  # `flow:` alone is empty
        else:
            setattr(built, key, _typed(value, hints[key], prefix + key, where))
    return built


def _scalar(key, text):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadInput(f"command line: {key} is {text!r}, which YAML cannot read") from None


def _override(config, dotted, value):
    known = {key: hint for key, hint, _ in all_keys()}
    if dotted not in known:
        raise BadInput(f"unknown setting {dotted!r}, {nearest(dotted, known)}")
    *groups, name = dotted.split(".")
    target = config
    for group in groups:
        target = getattr(target, group)
    setattr(target, name, _typed(value, known[dotted], dotted, "command line"))


def _typed(value, hint, key, where):
    """The value in the hinted type; YAML reads 1e-3 as a string and 1 as an int, so numbers are converted."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
        return _typed(value, hint, key, where)
    if origin is Literal:
        expected = f"one of {', '.join(map(str, options))}"
    elif origin is dict:
        expected = "pairs such as atac=bernoulli"
    elif origin is list:
        expected = f"a list of {options[0].__name__}"
    else:
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
    wrong = BadInput(f"{where}: {key} is {value!r}, expected {expected}")
    if origin is Literal:
        if value not in options:
            raise wrong
        return value
    if origin is dict:
        pairs = dict(item.partition("=")[::2] for item in value.split(",")) if isinstance(value, str) else value
        if not isinstance(pairs, dict) or not all(isinstance(part, str) and part for part in [*pairs, *pairs.values()]):
            raise wrong
        return dict(pairs)
    if origin is list:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        return [_typed(item, options[0], key, where) for item in items]
    if hint is str:
        if isinstance(value, (dict, list)) or value is None:
            raise wrong
        return str(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool):
        raise wrong
    if hint is int and isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise wrong
    return int(number) if hint is int else number


# name of a key → (test, what it must be); the names mean the same in every group
_COUNTS = ("latent_dim", "code_dim", "batch_size", "max_epochs", "patience", "blocks", "max_steps", "steps")
_RANGES = {
    **dict.fromkeys((*_COUNTS, "checkpoint_every_n_steps"), (lambda value: value >= 1, "at least 1")),
    **dict.fromkeys(
        ("lr", "theta_lr", "theta_start", "grad_clip", "checkpoint_every_minutes"),
        (lambda value: value > 0, "a positive number"),
    ),
    **dict.fromkeys(("weight_decay", "latent_noise", "gene_penalty"), (lambda value: value >= 0, "zero or more")),
    **dict.fromkeys(("dropout", "input_dropout", "ema"), (lambda value: 0 <= value < 1, "at least 0 and below 1")),
    "likelihood": (lambda value: set(value.values()) <= set(LIKELIHOODS), f"one of {', '.join(LIKELIHOODS)} for each"),
    "guidance": (lambda value: value >= 0, "zero or more"),
    "seed": (lambda value: 0 <= value < 2**63, "0 to 2**63 - 1"),
    "embedding": (lambda value: value >= 2, "at least 2"),
    "p_cond": (lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "hidden": (lambda value: min(value, default=0) >= 1 if isinstance(value, list) else value >= 1, "at least 1"),
}


def _check(config):
    for key, _, _ in all_keys():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        test, expected = _RANGES.get(key.split(".")[-1], (None, None))
        if test and value is not None and not test(value):
            raise BadInput(f"{key} is {value}, expected {expected}")
