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


def test_a_cell_keeps_one_of_the_attributes_that_it_has():
    codes = torch.tensor([[1, ABSENT, 3, 0], [ABSENT, 2, ABSENT, ABSENT], [ABSENT] * 4]).repeat(30_000, 1)
    kept = drop_attributes(codes, 0.8, False)
    assert (kept[codes == ABSENT] == ABSENT).all(), "what a cell has not is never seen"
    seen = (kept != ABSENT).view(30_000, 3, 4).float()
    assert seen.sum(dim=2).max() == 1
    third = 0.8 / 3
    assert seen.mean(dim=0)[0].tolist() == pytest.approx([third, 0, third, third], abs=0.01)
    assert seen.mean(dim=0)[1].tolist() == pytest.approx([0, 0.8, 0, 0], abs=0.01)
    assert seen.mean(dim=0)[2].sum() == 0
    assert (drop_attributes(codes[:3], 1.0, True) == codes[:3]).all(), "with joint labels all that it has"
    assert (drop_attributes(codes, 0.0, False) == ABSENT).all()


def test_complete_cells_keep_what_they_always_kept():
    """The draws are those of before: results of atlases without gaps do not change."""
    codes = torch.tensor([[1, 2, 3]]).expand(500, 3)
    generator = torch.Generator().manual_seed(7)
    seen = torch.rand(500, 1, generator=generator) < 0.8
    expected = seen & (torch.arange(3) == torch.randint(3, (500, 1), generator=generator))
    found = drop_attributes(codes, 0.8, False, torch.Generator().manual_seed(7))
    assert torch.equal(found, torch.where(expected, codes, ABSENT))
