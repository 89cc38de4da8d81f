"""Every condition moves the velocity."""

import torch

from cfgen_dist.model.velocity import ABSENT


def at(velocity, z, t, codes, size):
    return velocity(z, torch.full((len(z),), t), codes, size)


def test_every_condition_moves_the_velocity(velocity):
    z, size = torch.randn(1, 4), torch.tensor([7.0])
    reference = at(velocity, z, 0.5, torch.tensor([[0, 0]]), size)
    for codes, other in ([[1, 0]], size), ([[0, 1]], size), ([[ABSENT, 0]], size), ([[0, 0]], size + 1):
        assert not torch.allclose(at(velocity, z, 0.5, torch.tensor(codes), other), reference)
