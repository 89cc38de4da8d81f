"""Solvers against closed forms: order of convergence on a field that depends on time, reversal, the paper's dopri5."""

import math

import pytest
import torch

from cfgen_dist.model.solvers import integrate


def field(z, t):
    """dz/dt = cos(5 t) z, solved by z exp(sin(5 t) / 5)."""
    return math.cos(5 * t) * z


EXACT = math.exp(math.sin(5) / 5)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_order_of_convergence(solver, order):
    z = torch.ones(3, 2, dtype=torch.float64)
    errors = [abs(integrate(field, z, solver=solver, steps=n)[0, 0].item() - EXACT) for n in (20, 40)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
def test_adaptive_solvers_reach_their_tolerance(solver):
    z = torch.ones(3, 2)
    assert integrate(field, z, solver=solver)[0, 0].item() == pytest.approx(EXACT, abs=1e-4)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_backwards_undoes_forwards(solver):
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    there = integrate(field, z, solver=solver, steps=50)
    back = integrate(field, there, solver=solver, steps=50, start=1.0, end=0.0)
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-4)


def test_refuses_what_would_never_end():
    with pytest.raises(ValueError, match="not finite"):
        integrate(field, torch.tensor([[float("nan")]]), solver="dopri5")
    with pytest.raises(ValueError, match="steps is 0"):
        integrate(field, torch.ones(1, 1), solver="euler", steps=0)
    with pytest.raises(ValueError, match="expected one of euler"):
        integrate(field, torch.ones(1, 1), solver="rk5")
