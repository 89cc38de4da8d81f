"""Guidance weights of a model: read from a request, checked, and put to work on a batch of cells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from cfgen_dist.model.guidance import PreparedVelocity, guided
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Ints

if TYPE_CHECKING:
    from cfgen_dist.model.trained import TrainedModel

log = logging.getLogger("cfgen_dist")
MOST_GUIDANCE = 100.0  # 1 is faithful, the paper goes to 5; far beyond, latents leave what the decoder ever saw


def is_joint(model: TrainedModel) -> bool:
    """Whether the model was trained on all attributes at once: there is one weight, on the joint label."""
    return model.config.flow.conditioning == "joint"


def guidance_weights(model: TrainedModel, guidance: Mapping[str, float] | None) -> list[float]:
    """Guidance weights as plans keep them: in the order of the attributes, or one for a joint-conditioned model.

    Raises
    ------
    BadInput
        An attribute that the model does not have, a weight that is not finite, several weights for joint labels.
    """
    names = list(model.labels)
    if guidance is None:
        return [model.config.sampling.guidance] * (1 if is_joint(model) else len(names))
    for name, weight in guidance.items():
        if name not in names:
            raise BadInput(f"guidance for {name!r}, but the model has no such attribute, {nearest(name, names)}")
        if not np.isfinite(weight):
            raise BadInput(f"guidance of {name} is {weight}, expected a finite number")
        if abs(weight) > MOST_GUIDANCE:
            raise BadInput(f"guidance of {name} is {weight:g}, expected -{MOST_GUIDANCE:g} to {MOST_GUIDANCE:g}")
    if is_joint(model):
        if set(guidance) != set(names) or len(set(guidance.values())) != 1:
            raise BadInput(
                f"the model was trained on joint labels: guidance must give {', '.join(names)} one common weight"
            )
        return [float(next(iter(guidance.values())))]
    return [float(guidance.get(name, 0.0)) for name in names]


def weight_of_each(model: TrainedModel, weights: Sequence[float]) -> dict[str, float]:
    """Attribute → its guidance weight, whatever the conditioning; `weights` are those of a plan."""
    return dict(zip(model.labels, list(weights) * len(model.labels) if is_joint(model) else weights, strict=True))


def acting_codes(model: TrainedModel, weights: Sequence[float], codes: Ints) -> Ints:
    """Labels (N, K) as the decoder may know them: -1 where an attribute's guidance weight is 0 or less.

    Such cells bear the label and are not made by it, so the offsets of its categories are not theirs.
    """
    acting = np.array([weight > 0 for weight in weight_of_each(model, weights).values()], bool)
    return np.where(acting, codes, -1)


def guided_field(
    model: TrainedModel, weights: Sequence[float], codes: torch.Tensor, log_size_factor: torch.Tensor
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """The guided velocity of a batch of cells, (z (B, D), t) -> (B, D).

    Parameters
    ----------
    model : TrainedModel
    weights : list of float
        Those of a plan.
    codes : (B, K) int64 tensor
        Labels.
    log_size_factor : (B,) tensor
    """
    joint = is_joint(model)
    return guided(PreparedVelocity(model.velocity), codes, weights[0] if joint else weights, joint, log_size_factor)


def warn_of_dropped(model: TrainedModel, fixed: Mapping[str, str], weights: Sequence[float]) -> None:
    """Say so when an attribute was fixed and its guidance dropped: cells are labelled so, but not made so."""
    for name, weight in weight_of_each(model, weights).items():
        if name in fixed and weight == 0:
            log.warning(
                "%s=%s is fixed, but its guidance weight is 0: cells are labelled so and not made so; "
                "guidance %s=1 makes them so", name, fixed[name], name,
            )  # fmt: skip


def refuse_unseen(model: TrainedModel, codes: Ints, weights: Sequence[float]) -> None:
    """Raise `BadInput` for codes (N, K) with a category that no fitted cell had: its embedding was never trained."""
    for k, (name, weight) in enumerate(weight_of_each(model, weights).items()):
        unseen = np.setdiff1d(codes[:, k], model.combinations[:, k])
        if len(unseen) and weight != 0:
            raise BadInput(
                f"{name}: no training cell was {model.labels[name][unseen[0]]!r}, so the model has not learned it; "
                f"guidance {name}=0 leaves {name} out"
            )
