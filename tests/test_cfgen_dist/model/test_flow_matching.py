"""Attributes are dropped at the stated rates, and the flow learns."""

import pytest
import torch

from cfgen_dist.model.flow_matching import drop_attributes, flow_matching_loss
from cfgen_dist.model.guidance import guided
from cfgen_dist.model.solvers import integrate
from cfgen_dist.model.velocity import ABSENT, Velocity


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


@pytest.mark.heavy
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
