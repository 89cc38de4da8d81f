"""Integrate dz/dt = v(z, t): fixed-step solvers of our own, and the paper's adaptive dopri5 through torchdyn.

A fixed-step solver treats every row alone, so a cell does not depend on its batch mates. torchdyn's adaptive solvers
choose one step size for the whole batch, and its `rk4` evaluates the field at wrong times for fields that depend on t:
neither is used for fixed steps here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]


def _euler(v: Field, z: Tensor, t: float, h: float) -> Tensor:
    return z + h * v(z, t)


def _midpoint(v: Field, z: Tensor, t: float, h: float) -> Tensor:
    return z + h * v(z + h / 2 * v(z, t), t + h / 2)


def _heun(v: Field, z: Tensor, t: float, h: float) -> Tensor:
    k1 = v(z, t)
    k2 = v(z + h * k1, t + h)
    return z + h / 2 * (k1 + k2)


def _rk4(v: Field, z: Tensor, t: float, h: float) -> Tensor:
    k1 = v(z, t)
    k2 = v(z + h / 2 * k1, t + h / 2)
    k3 = v(z + h / 2 * k2, t + h / 2)
    k4 = v(z + h * k3, t + h)
    return z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


STEPPERS = {"euler": _euler, "midpoint": _midpoint, "heun": _heun, "rk4": _rk4}
ADAPTIVE = ("dopri5", "tsit5")
SOLVERS = (*STEPPERS, *ADAPTIVE)


def integrate(
    velocity: Field,
    z: Tensor,
    *,
    solver: str = "midpoint",
    steps: int = 10,
    start: float = 0.0,
    end: float = 1.0,
    tolerance: float = 1e-5,
) -> Tensor:
    """Carry `z` from time `start` to time `end`.

    Parameters
    ----------
    velocity : callable (z (B, D), t float) -> (B, D) tensor
    z : (B, D) float32 tensor
    solver : one of `SOLVERS`
        A name of `STEPPERS` takes `steps` equal steps; "dopri5" (the paper's) and "tsit5" adapt theirs to `tolerance`.
    steps : int
        Number of fixed steps.
    start, end : float
        `end` may be smaller than `start`: cells back to noise.
    tolerance : float
        Absolute and relative tolerance of the adaptive solvers.

    Returns
    -------
    (B, D) tensor

    Raises
    ------
    ValueError
        Unknown solver, fewer than one step, or a start that is not finite (an adaptive solver would never end).
    """
    if solver in STEPPERS:
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected at least 1")
        h = (end - start) / steps
        for i in range(steps):
            z = STEPPERS[solver](velocity, z, start + i * h, h)
        return z
    if solver not in ADAPTIVE:
        raise ValueError(f"solver is {solver!r}, expected one of {', '.join(SOLVERS)}")
    if not torch.isfinite(z).all():
        raise ValueError("the start of the integration holds values that are not finite")
    from torchdyn.numerics import odeint

    # torchdyn picks its first step as if time increased: run in s from 0 to 1, t = start + s (end - start).
    span = end - start

    def field(s: Any, state: Tensor) -> Tensor:
        return span * velocity(state, start + float(s) * span)

    trajectory: Tensor
    _, trajectory = odeint(
        field, z, torch.tensor([0.0, 1.0], device=z.device), solver=solver, atol=tolerance, rtol=tolerance
    )
    return trajectory[-1]
