"""The table of likelihoods: what holds for each of them, whatever its law."""

import numpy as np
import pytest
import torch
from scipy import sparse

from cfgen_dist import config
from cfgen_dist.model.autoencoder import INPUTS
from cfgen_dist.model.likelihoods import DEFAULT, LIKELIHOODS

F, B = 30, 200


def cells(law):
    """Outputs of a decoder for B cells that look alike, their size factors, and log theta where there is one."""
    mean = torch.linspace(0.05, 3, F)
    outputs = law.start_bias(mean, 1000).expand(B, -1)
    return mean, outputs, torch.full((B,), float(mean.sum())), torch.full((F,), 5.0) if law.has_dispersion else None


def draw(law, seed=0):
    _, outputs, size_factor, log_theta = cells(law)
    size_factor = size_factor.numpy() if law.scales_with_size_factor else None
    parts = law.draw(outputs, size_factor, log_theta, np.arange(B, dtype=np.uint64), np.random.default_rng(seed))
    return sparse.csr_matrix(parts, shape=(B, F)).toarray()


def test_the_config_knows_the_names_of_the_table():
    assert set(config.LIKELIHOODS) == set(LIKELIHOODS)
    assert DEFAULT in LIKELIHOODS


@pytest.mark.parametrize("law", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_every_likelihood(law):
    """It starts at the mean, draws what it decodes, prefers its own draws, and sends a gradient to every output."""
    mean, outputs, size_factor, log_theta = cells(law)
    assert outputs.shape[1] == law.n_outputs(F)
    assert law.encoder_input in (None, *INPUTS)
    assert law.decode(outputs).shape == (B, F)
    counts = draw(law)
    assert abs(counts.mean() / (mean if law.scales_with_size_factor else 1 - (-mean).exp()).mean() - 1) < 0.1
    assert law.nll(outputs, torch.zeros(B, F), size_factor, log_theta).shape == (B,)
    own = torch.from_numpy(counts).float()
    some = outputs.clone().requires_grad_()
    nll = law.nll(some, own, size_factor, log_theta).mean()
    assert nll < law.nll(outputs.flip(1), own, size_factor, log_theta).mean()
    nll.backward()
    assert (some.grad != 0).any(dim=0).all()
    np.testing.assert_array_equal(draw(law, seed=1), counts, err_msg="rows depend on their seeds alone")


def test_what_a_likelihood_cannot_do_without():
    law = LIKELIHOODS["nb"]
    _, outputs, size_factor, _ = cells(law)
    with pytest.raises(ValueError, match="log_theta is None"):
        law.nll(outputs, torch.zeros(B, F), size_factor, None)
