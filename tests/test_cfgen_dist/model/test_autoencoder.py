"""The autoencoder: where it starts, what it must not depend on, theta per category."""

import copy

import pytest
import torch

from cfgen_dist.model.autoencoder import INPUTS, Autoencoder


def some_counts(n=12, genes=30):
    return torch.poisson(torch.full((n, genes), 1.5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("input", INPUTS)
def test_starts_at_the_mean_profile(input):
    counts = some_counts(400)
    model = Autoencoder(30, latent_dim=4, hidden=(16, 8), input=input)
    model.start_at(counts.mean(dim=0), len(counts))
    rho = model.eval().decode(model.encode(counts, counts.sum(dim=1))).exp()
    profile = counts.sum(dim=0) / counts.sum()
    torch.testing.assert_close(rho, profile.expand_as(rho), rtol=2e-3, atol=1e-5)


def test_a_latent_does_not_depend_on_batch_mates():
    counts = some_counts()
    model = Autoencoder(30, latent_dim=4, hidden=(16, 8))
    model(counts, counts.sum(dim=1))  # moves the running statistics
    model.eval()
    together = model.encode(counts, counts.sum(dim=1))
    alone = torch.cat([model.encode(c[None], c.sum()[None]) for c in counts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_trains_on_a_batch_of_one_and_on_an_empty_cell():
    model = Autoencoder(30, latent_dim=4, hidden=(16, 8))
    for counts in (some_counts(1), torch.zeros(1, 30), torch.zeros(3, 30)):
        loss = model(counts, counts.sum(dim=1))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_theta_per_category():
    counts, category = some_counts(4), torch.tensor([0, 2, 1, 2])
    model = Autoencoder(30, latent_dim=4, hidden=(16, 8), n_dispersions=3).eval()
    with torch.no_grad():
        model.log_theta.copy_(torch.randn(3, 30))
    torch.testing.assert_close(model.dispersion(category), model.log_theta[category])
    size = counts.sum(dim=1)
    whole = model(counts, size, category)
    single = [model(counts[i : i + 1], size[i : i + 1], category[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(single).mean())
    with pytest.raises(ValueError, match="the category of each cell is needed"):
        model(counts, size)


@pytest.mark.slow  # compiles for a minute
def test_the_compiled_loss_is_the_loss():
    """With its gradients, for batches of several sizes; a layer alone would be compiled again for every layer."""
    torch.manual_seed(0)
    model = Autoencoder(30, latent_dim=4, hidden=(16, 8), dropout=0.0, input_dropout=0.0, latent_noise=0.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    compiled = copy.deepcopy(model)
    compiled.compile(dynamic=True)
    torch._dynamo.utils.counters.clear()
    for n in (12, 13, 40, 25):
        counts = some_counts(n)
        losses = [network(counts, counts.sum(dim=1)) for network in (model, compiled)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
