"""The one-pass training step on CPUs, against the reference by operations of torch in float64."""

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from cfgen_dist.model import one_pass
from cfgen_dist.model.autoencoder import INPUTS, Autoencoder
from cfgen_dist.model.likelihoods import LIKELIHOODS
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.sweeps.blocks import Counts, row_blocks
from data_loaders.reading.rows import SparseRows

LAWS = [("nb", 1), ("nb", 3), ("poisson", 1), ("bernoulli", 1)]
B, F = 150, 1501  # several blocks of rows, several pieces and a rest of features


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def some_counts(rng, n_cells=B, n_features=F, largest=700):
    """Sparse counts with an empty cell, an empty feature, a large count and a stored zero."""
    counts = rng.negative_binomial(0.6, 0.3, (n_cells, n_features)) * (rng.random((n_cells, n_features)) < 0.1)
    counts[3], counts[:, 7], counts[0, 5] = 0, 0, largest
    matrix = sparse.csr_matrix(counts.astype(np.uint16))
    matrix.data[1] = 0
    counts = matrix.toarray()
    return torch.from_numpy(counts).double(), SparseRows(
        matrix.data, matrix.indices.astype(np.uint16), matrix.indptr.astype(np.int64), n_features
    )


def a_network(rng, law="nb", n_dispersions=1, seen="log1p", n_features=F, scale=0.3):
    """An autoencoder whose every parameter matters, without randomness in its training step."""
    torch.manual_seed(int(rng.integers(1000)))
    network = Autoencoder(
        n_features, latent_dim=8, hidden=(32, 16), dropout=0, input_dropout=0, latent_noise=0, input=seen,
        n_dispersions=n_dispersions, likelihood=law,
    )  # fmt: skip
    with torch.no_grad():
        network._last_layer.weight.normal_(0, scale)
        network._last_layer.bias.normal_()
        if network.likelihood.has_dispersion:
            network.log_theta.uniform_(-6, 12)
    return network


def gradients(network, loss):
    """The loss and the gradients by all parameters that have one."""
    network.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad.double() for name, p in network.named_parameters() if p.grad is not None}


def in_float64(network, counts, size_factor, category):
    """Loss and gradients of the reference."""
    exact = copy.deepcopy(network).double()
    if not isinstance(network, JointAutoencoder) and network.input == "binary":
        exact._seen = lambda counts, size_factor: (counts > 0).double()
    return gradients(exact, exact(counts, size_factor.double(), category))


def far(found, expected):
    """The largest relative distance of a gradient; biases before a BatchNorm have none but rounding."""
    assert found.keys() == expected.keys()
    sizes = {name: slope.norm() for name, slope in expected.items()}
    least = 1e-7 * max(sizes.values())
    return max(float((found[name] - expected[name]).norm() / size) for name, size in sizes.items() if size > least)


@pytest.mark.parametrize(("law", "n_dispersions"), LAWS)
@pytest.mark.parametrize("seen", INPUTS)
def test_loss_and_gradients_are_those_of_the_reference(rng, law, n_dispersions, seen):
    counts, rows = some_counts(rng)
    network = a_network(rng, law, n_dispersions, seen)
    size_factor, category = counts.sum(1).float(), torch.arange(B) % n_dispersions
    expected, slopes = in_float64(network, counts, size_factor, category)
    loss, found = gradients(network, network.one_pass({"rna": rows}, size_factor, category))
    assert loss == pytest.approx(expected, rel=3e-7)
    assert far(found, slopes) < 1e-5
    half, found = gradients(network, network.one_pass({"rna": rows}, size_factor, category, half=True))
    assert half == pytest.approx(expected, rel=1e-3)
    assert far(found, slopes) < 0.05


@pytest.mark.parametrize(("law", "n_dispersions"), LAWS)
@pytest.mark.parametrize(("n_cells", "n_features"), [(2, 2), (3, 63), (33, 64), (65, 1025)])
def test_odd_shapes(rng, law, n_dispersions, n_cells, n_features):
    counts = torch.from_numpy(rng.poisson(0.7, (n_cells, n_features))).double()
    matrix = sparse.csr_matrix(counts.numpy().astype(np.uint8))
    rows = SparseRows(matrix.data, matrix.indices, matrix.indptr.astype(np.int64), n_features)
    network = a_network(rng, law, n_dispersions, n_features=n_features).eval()  # BatchNorm of two cells loses digits
    size_factor, category = counts.sum(1).float(), torch.arange(n_cells) % n_dispersions
    expected, slopes = in_float64(network, counts, size_factor, category)
    loss, found = gradients(network, network.one_pass({"rna": rows}, size_factor, category))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert far(found, slopes) < 1e-5


@pytest.mark.parametrize(("law", "n_dispersions"), LAWS[1:])
@pytest.mark.parametrize("theta", [-10.0, 15.0])
def test_extremes(rng, law, n_dispersions, theta):
    """Logits 60 apart, dispersions at both ends, counts of 60,000: finite, and those of float64."""
    counts, rows = some_counts(rng, largest=60_000)
    network = a_network(rng, law, n_dispersions, scale=3)
    with torch.no_grad():
        network._last_layer.bias.uniform_(-30, 30)
        if law == "nb":
            network.log_theta.fill_(theta)
    size_factor, category = counts.sum(1).float(), torch.arange(B) % n_dispersions
    expected, slopes = in_float64(network, counts, size_factor, category)
    loss, found = gradients(network, network.one_pass({"rna": rows}, size_factor, category))
    assert loss == pytest.approx(expected, rel=2e-6)
    assert far(found, slopes) < 1e-4


def test_several_modalities_of_which_cells_lack_some(rng):
    rna, rna_rows = some_counts(rng)
    atac, atac_rows = some_counts(rng, n_features=300)
    atac[10:40] = 0
    matrix = sparse.csr_matrix(atac.numpy().astype(np.uint16))
    atac_rows = SparseRows(matrix.data, matrix.indices, matrix.indptr.astype(np.int64), 300)
    network = JointAutoencoder(
        {"rna": a_network(rng, "nb"), "atac": a_network(rng, "bernoulli", n_features=300, seen="proportions")}, 8
    )
    network.latent_noise = 0
    size_factor = rna.sum(1).float()
    expected, slopes = in_float64(network, {"rna": rna, "atac": atac}, size_factor, None)
    rows = {"rna": rna_rows, "atac": atac_rows}
    loss, found = gradients(network, network.one_pass(rows, size_factor))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert far(found, slopes) < 1e-4


def test_a_step_gives_the_same_bytes_on_any_number_of_threads(rng):
    counts, rows = some_counts(rng)
    network, size_factor = a_network(rng), counts.sum(1).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            lines, log_theta = np.zeros(B, np.int64), network.log_theta
            logits = torch.randn(B, F, generator=torch.Generator().manual_seed(0))
            made = network.likelihood.sweep(
                logits, logits[:, :0], torch.zeros(F), log_theta, lines, size_factor.numpy(), Counts.of(rows), 1.0
            )
            found.append((made[0], logits.numpy().tobytes(), *(part.numpy().tobytes() for part in made[1:])))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_without_gradients_the_loss_is_the_same(rng):
    counts, rows = some_counts(rng)
    network, size_factor = a_network(rng), counts.sum(1).float()
    loss = network.one_pass({"rna": rows}, size_factor)
    with torch.no_grad():
        assert network.one_pass({"rna": rows}, size_factor).item() == loss.item()


def test_a_gradient_that_is_scaled(rng):
    counts, rows = some_counts(rng)
    network, size_factor = a_network(rng), counts.sum(1).float()
    _, once = gradients(network, network.one_pass({"rna": rows}, size_factor))
    _, twice = gradients(network, 2 * network.one_pass({"rna": rows}, size_factor))
    assert far({name: value / 2 for name, value in twice.items()}, once) < 1e-6


def test_input_dropout_drops_its_share_of_counted_entries_and_keeps_the_mean(rng):
    counts, rows = some_counts(rng)
    sizes = counts.sum(1).float().numpy()
    whole = one_pass.seen(Counts.of(rows), F, sizes, "log1p", 0.0, half=False)
    assert torch.allclose(whole, counts.float().log1p(), rtol=1e-6)
    torch.manual_seed(0)
    dropped = one_pass.seen(Counts.of(rows), F, sizes, "log1p", 0.25, half=False)
    kept = dropped[whole > 0] > 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=4 * (0.25 * 0.75 / len(kept)) ** 0.5)
    assert torch.allclose(dropped[dropped > 0], whole[dropped > 0] / 0.75)
    assert (dropped[whole == 0] == 0).all()


def test_penalty_and_its_gradient(rng):
    for law in LIKELIHOODS:
        network = a_network(rng, law).double()
        weight = network._last_layer.weight
        expected = (weight[:F].square().sum(dim=1) + 1e-4).sqrt().sum()
        (slope,) = torch.autograd.grad(3 * expected, weight)
        network.zero_grad()
        (3 * network.gene_penalty()).backward()
        assert network.gene_penalty().item() == pytest.approx(expected.item())
        assert torch.allclose(weight.grad, slope)


def test_blocks_are_all_rows_once_and_depend_on_rows_alone():
    for n_rows, size in itertools.product((0, 1, 31, 64, 1000), (0, 10**6, 10**9)):
        blocks = row_blocks(n_rows, size)
        assert blocks[0][0] == 0
        assert blocks[-1][1] == n_rows
        assert all(a[1] == b[0] for a, b in itertools.pairwise(blocks))
        assert len(blocks) * size <= 256 << 20 or len(blocks) == 1


def test_half_is_for_processors_that_gain_by_it(monkeypatch):
    def choice(tiles, about, told=None):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
        monkeypatch.setattr(one_pass, "_about_processor", lambda: about)
        if told:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", told)
        else:
            monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        return one_pass.half_is_faster()

    intel, amd = "vendor_id: GenuineIntel avx512_bf16", "vendor_id: AuthenticAMD avx512_bf16"
    assert choice(True, intel)
    assert not choice(True, intel, told="AVX512_CORE_BF16")
    assert not choice(False, intel)
    assert choice(False, amd)
    assert not choice(False, amd, told="AVX2")
    assert not choice(False, "")


STEP = """
import hashlib, numpy as np, torch
from test_one_pass import a_network, some_counts
counts, rows = some_counts(np.random.default_rng(0))
network = a_network(np.random.default_rng(1))
network.one_pass({"rna": rows}, counts.sum(1).float()).backward()
print(hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in network.parameters())).hexdigest())
"""


@pytest.mark.slow
def test_a_step_gives_the_same_bytes_whether_it_was_compiled_just_now_or_before(tmp_path):
    """What is compiled may not depend on what is compiled already: no fast math."""
    places = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(places)}

    def step():
        return subprocess.run(
            [sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True
        ).stdout

    just_now, before = step(), step()
    for file in tmp_path.rglob("negative_binomial.*"):
        file.unlink()
    assert just_now == before == step()
