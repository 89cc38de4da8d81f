"""Simulated atlases: the content is a function of the seed, and the counts follow the stated truth."""

import anndata as ad
import numpy as np
import pytest
from scipy import stats

from cfgen_dist.cli import main
from data_loaders import BadInput, open_atlas, simulate
from data_loaders.simulation import cells as module
from data_loaders.simulation.cells import make_cells, make_truth
from data_loaders.simulation.peaks import make_peak_truth


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "a.zarr"
    simulate(path, cells=5000, genes=300, types=3, donors=3, density=0.1, seed=7)
    return ad.read_zarr(path)


def test_shapes_and_density(atlas):
    assert atlas.shape == (5000, 300)
    assert atlas.X.nnz / (5000 * 300) == pytest.approx(0.1, rel=0.1)
    assert list(atlas.obs["cell_type"].cat.categories) == ["type_0", "type_1", "type_2"]
    assert atlas.varm["type_log_profile"].shape == (300, 3)
    shares = atlas.obs["cell_type"].value_counts(normalize=True)
    np.testing.assert_allclose(shares.sort_index(), atlas.uns["truth"]["type_share"], atol=0.03)
    assert (atlas.obs["split"] == "test").mean() == pytest.approx(0.2, abs=0.01)


def test_content_is_a_function_of_the_seed(tmp_path):
    stores = []
    for i, (cells, seed) in enumerate([(2100, 1), (2100, 1), (1500, 1), (2100, 2)]):
        simulate(tmp_path / f"{i}.zarr", cells=cells, genes=50, seed=seed)
        stores.append(ad.read_zarr(tmp_path / f"{i}.zarr"))
    first, same, fewer, other = stores
    assert (first.X != same.X).nnz == 0
    assert first.obs.equals(same.obs)
    assert (first.X[:1500] != fewer.X).nnz == 0  # the last block is cut, not drawn anew
    assert (first.obs["cell_type"][:1500] == fewer.obs["cell_type"]).all()
    assert (first.X != other.X).nnz > 0


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_are_none(tmp_path, seed, capsys):
    words = ["--cells", "50", "--genes", "10", "--types", "2", "--seed", str(seed)]
    assert main(["simulate", str(tmp_path / "a.zarr"), *words]) == 2
    assert f"error: seed is {seed}, expected a whole number from 0 to 2**63-1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_content_does_not_depend_on_the_strips(monkeypatch):
    truth = make_truth(80, 2, 2, 0.1, seed=3)
    kinds = np.arange(300) % 2
    whole, depth = make_cells(truth, kinds, kinds, 3, 0)
    monkeypatch.setattr(module, "STRIP", 7)
    strips, same_depth = make_cells(truth, kinds, kinds, 3, 0)
    assert (whole != strips).nnz == 0
    np.testing.assert_array_equal(depth, same_depth)


def test_in_order(tmp_path):
    simulate(tmp_path / "a.zarr", cells=500, genes=30, in_order=True)
    codes = ad.read_zarr(tmp_path / "a.zarr").obs["cell_type"].cat.codes
    assert (np.diff(codes) >= 0).all()


def test_counts_are_negative_binomial():
    """Against scipy's distribution function, with means from 0.01 to 80 and inverse dispersions from 0.3 to 200."""
    n = 40_000
    mean = np.array([0.01, 0.5, 3.0, 80.0, 20.0], np.float32)
    theta = np.array([0.5, 0.3, 4.0, 2.0, 200.0], np.float32)
    means = np.tile(mean, (n, 1))
    events = (theta * np.log1p(means / theta)).astype(np.float32)
    seeds = np.random.default_rng(0).integers(0, 2**63, n).astype(np.uint64)
    data, indices, indptr = module._draw_counts(means, events, theta, seeds)
    drawn = np.zeros((n, 5), int)
    drawn[np.repeat(np.arange(n), np.diff(indptr)), indices] = data
    for gene in range(5):
        expected = stats.nbinom(theta[gene], theta[gene] / (theta[gene] + mean[gene]))
        values = np.arange(int(expected.ppf(0.999)) + 1)
        observed = np.searchsorted(np.sort(drawn[:, gene]), values, side="right") / n
        assert np.abs(observed - expected.cdf(values)).max() < 1.63 / np.sqrt(n)  # Kolmogorov-Smirnov at 1 %
    assert np.abs(np.corrcoef(drawn[:, 1:].T) - np.eye(4)).max() < 0.02


def test_every_cell_has_a_count():
    means = np.full((2000, 3), 1e-4, np.float32)
    means[:, 1] = 2e-4
    theta = np.ones(3, np.float32)
    seeds = np.arange(2000).astype(np.uint64)
    _, indices, indptr = module._draw_counts(means, theta * np.log1p(means), theta, seeds)
    assert (np.diff(indptr) >= 1).all()
    assert (indices == 1).mean() > 0.99


def test_depth_and_profiles_are_the_truth(atlas):
    truth = atlas.uns["truth"]
    logs = np.log(atlas.obs["depth"])
    by_donor = logs.groupby(atlas.obs["donor"], observed=True)
    np.testing.assert_allclose(by_donor.mean(), truth["mean_log_depth"], atol=0.05)
    np.testing.assert_allclose(by_donor.std(), truth["sd_log_depth"], atol=0.03)
    # the sum of counts is Poisson or wider around the depth, never far from it
    assert np.median(atlas.obs["size_factor"] / atlas.obs["depth"]) == pytest.approx(1.0, abs=0.03)
    # the log ratio of two types' expression is the difference of their log profiles, up to the normalisation
    mask = [(atlas.obs["cell_type"] == f"type_{k}").to_numpy() for k in (0, 1)]
    sums = np.stack([np.asarray(atlas.X[m].astype(float).sum(0)).ravel() for m in mask])
    enough = sums.min(0) > 400
    observed = np.log(sums[0, enough] / sums[1, enough])
    expected = (atlas.varm["type_log_profile"][:, 0] - atlas.varm["type_log_profile"][:, 1])[enough]
    slope, _, correlation, *_ = stats.linregress(expected, observed)
    assert correlation > 0.99
    assert slope == pytest.approx(1.0, abs=0.05)


def test_programmes_correlate_genes_within_a_type(atlas):
    cells = atlas[atlas.obs["cell_type"] == "type_0"]
    rates = np.log1p(cells.X.toarray() / cells.obs["size_factor"].to_numpy()[:, None] * 1e3)
    loadings = atlas.varm["programme_loadings"]
    common = np.argsort(-rates.mean(0))[:40]
    correlation = np.corrcoef(rates[:, common].T)
    shared = loadings[common] @ loadings[common].T
    pairs = np.triu_indices(40, 1)
    assert stats.spearmanr(correlation[pairs], shared[pairs]).statistic > 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "`cells=0`: expected at least 1"),
        ({"genes": -3}, "`genes=-3`: expected at least 1"),
        ({"types": 0}, "`types=0`: expected at least 1"),
        ({"density": 0.9}, "`density=0.9`: expected a share above 0 and at most 0.5"),
        ({"density": 0.0}, "`density=0.0`: expected"),
        ({"cells": 3}, r"`cells=3`: expected at least as many as types \(8\) and donors \(4\)"),
    ],
)
def test_refusals(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        simulate(tmp_path / "a.zarr", **({"cells": 100, "genes": 20} | options))
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path, capsys):
    words = ["simulate", str(tmp_path / "a.zarr"), "--cells", "200", "--genes", "30", "--types", "2", "--in-order"]
    assert main(words) == 0
    assert "200 cells x 30 genes" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_peaks(tmp_path):
    """Open shares follow the stated truth, and genes stay as they are without peaks."""
    options = {"cells": 3000, "genes": 60, "types": 2, "donors": 2, "density": 0.1, "seed": 4}
    simulate(tmp_path / "plain.zarr", **options)
    card = simulate(tmp_path / "a.zarr", peaks=80, **options)
    assert card["modalities"]["atac"]["likelihood"] == "bernoulli"
    assert card["modalities"]["atac"]["density"] == pytest.approx(0.1, abs=0.03)
    plain, both = open_atlas(tmp_path / "plain.zarr"), open_atlas(tmp_path / "a.zarr")
    rows = np.arange(3000)
    assert (plain.read(rows).to_scipy() != both.read(rows, "rna").to_scipy()).nnz == 0
    peaks = both.read(rows, "atac").to_scipy().toarray()
    assert set(np.unique(peaks)) == {0, 1}
    assert peaks.any(axis=1).all()
    truth = make_peak_truth(80, 2, module.N_PROGRAMMES, 0.1, 4)
    scores = np.random.default_rng(0).standard_normal((2000, module.N_PROGRAMMES)) @ truth["programme_loadings"].T
    for kind in range(2):
        expected = (1 / (1 + np.exp(-truth["type_logit"][:, kind] - scores))).mean(axis=0)
        found = peaks[both.rows(cell_type=f"type_{kind}")].mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=0.06)
        np.testing.assert_array_equal(both.features("atac")[f"logit_type_{kind}"], truth["type_logit"][:, kind])
    assert main(["simulate", str(tmp_path / "b.zarr"), "--cells", "50", "--genes", "10", "--peaks", "-1"]) == 2
