"""Guidance equals the paper's formula and evaluates no more than it needs."""

import pytest
import torch

from cfgen_dist.model.guidance import guided
from cfgen_dist.model.velocity import ABSENT


def at(velocity, z, t, codes, size):
    return velocity(z, torch.full((len(z),), t), codes, size)


@pytest.mark.parametrize("weights", [(1.5, 0.0), (0.0, 1.0), (0.0, 0.0), (2.0, -1.0), (1.0, 1.0), (0.3, 0.7)])
def test_guidance_is_the_papers_formula(velocity, weights):
    z = torch.randn(6, 4)
    codes = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 0], [1, 1], [2, 0]])
    size = torch.linspace(5, 9, 6)
    none = torch.full_like(codes, ABSENT)
    base = at(velocity, z, 0.3, none, size)
    expected = base.clone()
    for i, weight in enumerate(weights):
        seen = none.clone()
        seen[:, i] = codes[:, i]
        expected += weight * (at(velocity, z, 0.3, seen, size) - base)
    torch.testing.assert_close(guided(velocity, codes, weights, False, size)(z, 0.3), expected, rtol=1e-4, atol=1e-5)


def test_joint_guidance_is_the_formula_on_the_joint_label(velocity):
    z, codes, size = torch.randn(2, 4), torch.tensor([[0, 1], [2, 0]]), torch.tensor([6.0, 7.0])
    base = at(velocity, z, 0.6, torch.full_like(codes, ABSENT), size)
    expected = base + 2.5 * (at(velocity, z, 0.6, codes, size) - base)
    torch.testing.assert_close(guided(velocity, codes, 2.5, True, size)(z, 0.6), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "rows"), [((1.0, 0.0), 1), ((0.0, 0.0), 1), ((1.5, 0.0), 2), ((1.0, 1.0), 3), ((0.5, 0.5), 2)]
)
def test_guidance_evaluates_only_what_it_needs(velocity, weights, rows):
    seen = []
    velocity.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    guided(velocity, torch.zeros(5, 2, dtype=torch.int64), weights, False, torch.full((5,), 6.0))(
        torch.randn(5, 4), 0.5
    )
    assert seen == [5 * rows]
