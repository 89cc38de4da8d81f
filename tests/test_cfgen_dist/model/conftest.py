"""A small velocity network whose conditions show."""

import pytest
import torch

from cfgen_dist.model.velocity import Velocity


@pytest.fixture
def velocity():
    torch.manual_seed(0)
    network = Velocity(4, [3, 2], hidden=16, blocks=2, embedding=12, size_factor_range=(5.0, 9.0))
    for parameter in network.parameters():  # the zero-started layers would hide the conditions
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()
