"""The velocity network: guidance equals its formula, attributes are dropped at the stated rates, the flow learns."""

import pytest
import torch

from cfgen_dist.model.flow_matching import drop_attributes, flow_matching_loss
from cfgen_dist.model.guidance import guided
from cfgen_dist.model.solvers import integrate
from cfgen_dist.model.velocity import ABSENT, Velocity


@pytest.fixture
def velocity():
    torch.manual_seed(0)
    network = Velocity(4, [3, 2], hidden=16, blocks=2, embedding=12, size_factor_range=(5.0, 9.0))
    for parameter in network.parameters():  # the zero-started layers would hide the conditions
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


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


def test_every_condition_moves_the_velocity(velocity):
    z, size = torch.randn(1, 4), torch.tensor([7.0])
    reference = at(velocity, z, 0.5, torch.tensor([[0, 0]]), size)
    for codes, other in ([[1, 0]], size), ([[0, 1]], size), ([[ABSENT, 0]], size), ([[0, 0]], size + 1):
        assert not torch.allclose(at(velocity, z, 0.5, torch.tensor(codes), other), reference)


def test_attributes_are_dropped_per_cell():
    codes = torch.tensor([[1, 2, 3]]).expand(30_000, 3)
    seen = drop_attributes(codes, 0.8, False) != ABSENT
    assert seen.sum(dim=1).max() == 1, "never more than one attribute"
    assert seen.any(dim=1).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert seen.float().mean(dim=0).tolist() == pytest.approx([0.8 / 3] * 3, abs=0.01)
    joint = drop_attributes(codes, 0.8, True) != ABSENT
    assert (joint.all(dim=1) == joint.any(dim=1)).all(), "all or none"
    assert joint.float().mean().item() == pytest.approx(0.8, abs=0.01)


def test_a_model_without_attributes_runs():
    network = Velocity(3, [], hidden=8, blocks=1, embedding=8)
    codes = torch.zeros(4, 0, dtype=torch.int64)
    assert flow_matching_loss(network, torch.randn(4, 3), drop_attributes(codes, 0.8, False)).isfinite()
    assert guided(network, codes, [])(torch.randn(4, 3), 0.5).shape == (4, 3)


def test_the_flow_learns_two_conditional_gaussians():
    """Trained on N(+-3, 0.5) by label: the right mean and spread for each, and their mixture without one."""
    torch.manual_seed(0)
    network = Velocity(1, [2], hidden=64, blocks=2, embedding=32)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(1500):
        code = torch.randint(2, (256, 1))
        z1 = (code * 6.0 - 3.0) + 0.5 * torch.randn(256, 1)
        loss = flow_matching_loss(network, z1, drop_attributes(code, 0.8, False))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        for label, mean in ((0, -3.0), (1, 3.0)):
            field = guided(network, torch.full((2000, 1), label), [1.0])
            z = integrate(field, torch.randn(2000, 1), steps=10)
            assert z.mean().item() == pytest.approx(mean, abs=0.25)
            assert z.std().item() == pytest.approx(0.5, abs=0.2)
        field = guided(network, torch.zeros(2000, 1, dtype=torch.int64), [0.0])
        z = integrate(field, torch.randn(2000, 1), steps=20)
    assert (z > 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
