"""The settings of a training: one model a group, and for every key its type, range, default and meaning.

Everything else is derived from here: what YAML files and presets may say, the options of `cfgen-dist train`, the
messages that refuse a value, and the page docs/settings.md.
"""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cfgen_dist.config.refusals import refusal
from cfgen_dist.config.settings import Setting, settings_of

Likelihood = Literal["nb", "bernoulli", "poisson"]
Precision = Literal["auto", "32-true", "bf16-products", "bf16-mixed"]
Solver = Literal["euler", "midpoint", "heun", "rk4", "dopri5", "tsit5"]
LIKELIHOODS: tuple[str, ...] = get_args(Likelihood)
SOLVERS: tuple[str, ...] = get_args(Solver)


def _number(value: Any) -> float:
    """A finite float; YAML reads 1e-3 as text, and a bool is no number."""
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, OverflowError):
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    """An int; 1e3 and 5.0 are whole numbers too."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _text(value: Any) -> str:
    """Text; YAML reads a column named 1 as a number."""
    if value is None or isinstance(value, dict | list):
        raise ValueError
    return str(value)


def _list(value: Any) -> list[Any]:
    """A list; the command line writes 512,256, and one item alone is a list of one."""
    if isinstance(value, str):
        return list(value.split(","))
    return list(value) if isinstance(value, list | tuple) else [value]


def _pairs(value: Any) -> Any:
    """A dict; the command line writes atac=bernoulli,adt=nb."""
    pairs = dict(item.partition("=")[::2] for item in value.split(",")) if isinstance(value, str) else value
    if isinstance(pairs, dict) and not all(isinstance(part, str) and part for part in [*pairs, *pairs.values()]):
        raise ValueError
    return pairs


Text = Annotated[str, BeforeValidator(_text)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(_whole)]
Width = Annotated[int, Field(ge=2), BeforeValidator(_whole)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_number)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(_number)]
Guidance = Annotated[float, Field(ge=0, le=100), BeforeValidator(_number)]
Probability = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number)]
Widths = Annotated[list[Count], Field(min_length=1), BeforeValidator(_list)]
Names = Annotated[list[Text], BeforeValidator(_list)]
Likelihoods = Annotated[dict[str, Likelihood], BeforeValidator(_pairs)]


class Group(BaseModel):
    """Keys that belong together. A key that is set is checked like one that is read."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)

    @model_validator(mode="before")
    @classmethod
    def _may_be_empty(cls, values: Any) -> Any:
        return {} if values is None else values  # `flow:` alone in a YAML file

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise refusal(error, type(self), type(self).__name__) from None


class AutoencoderConfig(Group):
    """Counts to latents. The defaults were chosen on validation cells, see docs/quality.md."""

    latent_dim: Count = Field(default=50, description="dimensions of the latent that the flow learns to make")
    hidden: Widths = Field(
        default=[256, 128],
        description="widths of the encoder's hidden layers; the decoder has the same in reverse order",
    )
    input: Literal["log1p", "log1p_cp10k", "proportions"] = Field(
        default="log1p",
        description="what the encoder sees: log1p of the counts, log1p of the counts scaled to 10,000 a cell, or "
        "each gene's share of the counts",
    )
    dropout: Share = Field(default=0.1, description="share of units dropped after each hidden layer")
    input_dropout: Share = Field(default=0.1, description="share of genes hidden from the encoder at each step")
    latent_noise: NotNegative = Field(
        default=0.1, description="standard deviation of noise added to the latent in training"
    )
    theta_covariate: Text | None = Field(
        default=None,
        description="label column: one dispersion theta for each gene and category of it; null: one for each gene",
    )
    theta_start: Positive = Field(default=10.0, description="value at which every theta starts")
    theta_lr: Positive = Field(default=3e-2, description="learning rate of theta")
    gene_penalty: NotNegative = Field(
        default=120.0,
        description="weight of the group lasso on the decoder's last layer, divided by the number of training cells",
    )
    ema: Share = Field(
        default=0.98, description="decay of the averaged weights, which are validated and kept; 0: no averaging"
    )
    lr: Positive = Field(default=1e-3, description="learning rate of AdamW")
    weight_decay: NotNegative = Field(default=1e-3, description="weight decay of AdamW, on weight matrices only")
    grad_clip: Positive = Field(default=1.0, description="largest norm of the gradient")
    batch_size: Count = Field(default=128, description="cells of a step, of all workers together")
    max_epochs: Count = Field(default=300, description="most passes over the training cells")
    patience: Count = Field(
        default=10, description="epochs without a better held-out likelihood after which training stops"
    )


class ModalitiesConfig(Group):
    """Modalities beside rna: each has an encoder and a decoder, and all share one latent."""

    likelihood: Likelihoods = Field(
        default={},
        description="law of a modality's counts; one that is left out gets the law that the atlas's card proposes",
    )
    hidden: Widths = Field(default=[256, 128], description="widths of the hidden layers of modalities other than rna")
    code_dim: Count = Field(
        default=100,
        description="dimensions of each modality's code (rna's too), from which a shared layer makes the latent",
    )


class FlowConfig(Group):
    """Noise to latents."""

    hidden: Count = Field(default=256, description="width of the velocity network's residual blocks")
    blocks: Count = Field(default=4, description="number of residual blocks")
    embedding: Width = Field(default=128, description="width of the embeddings of time, size factor and labels")
    condition_on_size_factor: bool = Field(default=True, description="show the network the size factor of the cell")
    conditioning: Literal["single", "joint"] = Field(
        default="single",
        description="labels that a training cell shows at once; single: one of them, drawn at random, so that guidance "
        "by several can be combined; joint: all of them",
    )
    p_cond: Probability = Field(default=0.8, description="probability that a training cell shows labels at all")
    lr: Positive = Field(default=1e-3, description="learning rate of AdamW")
    weight_decay: NotNegative = Field(default=1e-6, description="weight decay of AdamW")
    grad_clip: Positive = Field(default=1.0, description="largest norm of the gradient")
    batch_size: Count = Field(default=256, description="cells of a step, of all workers together")
    max_steps: Count | None = Field(
        default=None, description="steps of the training; null: 2,000, or 30 epochs where that is more, at most 100,000"
    )
    ema: Share = Field(
        default=0.999, description="decay of the averaged weights, which the bundle holds; 0: no averaging"
    )


class SizeFactorConfig(Group):
    """How a new cell gets its size factor."""

    law: Literal["lognormal", "resample"] = Field(
        default="resample", description="draw from a log-normal fitted to the training cells, or resample theirs"
    )
    covariate: Text | None = Field(
        default="auto",
        description="label column: one law for each category of it; auto: the first label; null: one law",
    )


class SamplingConfig(Group):
    """What `generate` does unless told otherwise; kept in the bundle."""

    solver: Solver = Field(
        default="midpoint", description="integrator of the flow; dopri5 and tsit5 choose their own steps"
    )
    steps: Count = Field(default=10, description="steps of a fixed-step solver")
    guidance: Guidance = Field(
        default=1.0, description="weight of every label; more than 1 makes cells more typical and less diverse"
    )
    batch_size: Count = Field(default=1024, description="cells integrated at once")


class Config(Group):
    """Everything that `cfgen-dist train` can be told."""

    labels: Names | None = Field(
        default=None, description="label columns to condition on; null: every one of the atlas"
    )
    seed: Seed = Field(default=0, description="start of all random numbers")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="where to train; auto: a GPU if there is one"
    )
    precision: Precision = Field(
        default="auto",
        description="numbers in the networks' arithmetic; bf16-products: bfloat16 in the products of the autoencoder's "
        "two large layers on CPUs, float32 elsewhere; auto: bf16-products on CPUs that gain by it (AMX, or AMD's with "
        "AVX512-BF16), else 32-true",
    )
    refit: bool = Field(
        default=True,
        description="once validation cells have chosen the number of epochs, train again with them among the training "
        "cells",
    )
    calibrate: bool = Field(
        default=True,
        description="once all is trained, compare the decoder's means with those of the training cells, feature by "
        "feature in each category of every label, and add what is missing to its outputs",
    )
    compile: bool = Field(default=False, description="use torch.compile: a minute at the start, less memory of the GPU")
    all_reduce: Literal["float32", "bfloat16"] = Field(
        default="float32", description="numbers in which workers exchange gradients"
    )
    checkpoint_every_n_steps: Count = Field(default=500, description="steps between checkpoints")
    checkpoint_every_minutes: Positive | None = Field(
        default=None, description="minutes between further checkpoints; null: no further ones"
    )
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    modalities: ModalitiesConfig = ModalitiesConfig()
    flow: FlowConfig = FlowConfig()
    size_factor: SizeFactorConfig = SizeFactorConfig()
    sampling: SamplingConfig = SamplingConfig()


def settings() -> dict[str, Setting]:
    """Dotted key of the config → Setting, in the order of their definition."""
    return settings_of(Config)


def groups() -> dict[str, str]:
    """Group of the config → what it is about."""
    return {
        name: " ".join((field.annotation.__doc__ or "").split())
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
    }
