"""The joint autoencoder: its loss is a sum, cells may lack a modality, every modality is learned from."""

import torch

from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.multimodal import JointAutoencoder


def joint():
    torch.manual_seed(0)
    made = {
        "rna": Autoencoder(30, 6, hidden=(16, 8), decoded_dim=5),
        "atac": Autoencoder(50, 6, hidden=(16, 8), decoded_dim=5, likelihood="bernoulli", input="binary"),
    }
    return JointAutoencoder(made, 5)


def cells(n=12):
    counts = {"rna": torch.poisson(torch.full((n, 30), 0.8)), "atac": torch.poisson(torch.full((n, 50), 0.3))}
    return counts, counts["rna"].sum(dim=1)


def test_the_loss_is_the_sum_over_modalities():
    model, (counts, size_factor) = joint().eval(), cells()
    z = model.encode(counts, size_factor)
    parts = [model.branches[name].nll(z, counts[name], size_factor).mean() for name in counts]
    torch.testing.assert_close(model(counts, size_factor), sum(parts))


def test_cells_without_a_modality_train_the_others():
    """Their code in it is zero, their likelihood there is left out, and no gradient reaches its networks from them."""
    model, (counts, size_factor) = joint(), cells()
    counts["atac"][4:] = 0
    model.eval()
    some = {name: values[:4] for name, values in counts.items()}
    torch.testing.assert_close(model.encode(counts, size_factor)[:4], model.encode(some, size_factor[:4]))
    z = model.encode(counts, size_factor)
    rna = model.branches["rna"].nll(z, counts["rna"], size_factor)
    atac = model.branches["atac"].nll(z, counts["atac"], size_factor)[:4]
    torch.testing.assert_close(model(counts, size_factor), (rna.sum() + atac.sum()) / 12)
    model.train()
    counts["atac"][:] = 0
    model(counts, size_factor).backward()
    gradients = [p.grad for p in model.branches["atac"].parameters() if p.grad is not None]
    assert all((g == 0).all() for g in gradients)
    assert (model.branches["rna"].decoder[-1].weight.grad != 0).any()


def test_gradients_flow_from_every_modality_to_the_shared_layer():
    for name in ("rna", "atac"):
        model, (counts, size_factor) = joint(), cells()
        with torch.no_grad():  # the last layers start at zero: nothing could pass
            for branch in model.branches.values():
                branch.decoder[-1].weight.normal_()
        z = model.encode(counts, size_factor)
        model.branches[name].nll(z, counts[name], size_factor).sum().backward()
        assert (model.join[0].weight.grad != 0).any()
