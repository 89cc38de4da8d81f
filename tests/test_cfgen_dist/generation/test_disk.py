"""Numbers that are too large are refused before anything is made."""

import time

import numpy as np
import pytest
from scipy import sparse

from cfgen_dist.bundle import CFGen
from cfgen_dist.generation.disk import bytes_per_cell, in_words
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.plan import make_plan, read_plan
from cfgen_dist.generation.run import generate
from cfgen_dist.generation.shard import sample_shard, stacked
from cfgen_dist.model.likelihoods.bernoulli import draw_bernoulli
from cfgen_dist.model.likelihoods.negative_binomial import draw
from data_loaders import BadInput


@pytest.fixture(scope="module")
def model(tiny_run):
    return CFGen.load(tiny_run)


def test_what_the_disk_cannot_hold_is_refused_at_once(model, tmp_path):
    make_plan(model, 5)
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"out\.zarr: 1,000,000,000,000 cells need about .* TB more, .* are free"):
        generate(model, tmp_path / "out.zarr", 10**12)
    assert time.monotonic() - started < 5
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="shards, expected 2,147,483,647 at most: make `shard_size` larger"):
        make_plan(model, 10**12, sampling=Sampling(shard_size=1))


def test_the_estimate_is_that_of_the_cells(model, tmp_path):
    plan = make_plan(model, 2000, sampling=Sampling(shard_size=2000))
    counts = sample_shard(model, 0, plan)[0]["rna"]
    per_cell = counts.nnz / 2000 * 3 + 8 + 12 + 8  # uint8 and uint16, indptr, obs, two labels
    assert bytes_per_cell(model, plan) == pytest.approx(per_cell, rel=0.2)
    assert [in_words(n) for n in (7, 7e3, 7.26e12)] == ["7 bytes", "7.0 kB", "7.3 TB"]


@pytest.mark.parametrize("weight", [101, -101, 1e9, float("nan"), float("inf")])
def test_guidance_beyond_a_sane_range(model, tmp_path, weight):
    with pytest.raises(BadInput, match="guidance of cell_type is"):
        make_plan(model, 5, sampling=Sampling(guidance={"cell_type": weight}))
    plan = make_plan(model, 5)
    text = plan.to_json().replace('"weights": [1.0, 1.0]', f'"weights": [{weight}, 1.0]').replace("nan", "NaN")
    (tmp_path / "plan.json").write_text(text.replace("inf", "Infinity"))
    with pytest.raises(BadInput, match=r"plan\.json: weights is .*, which no plan of this model has"):
        read_plan(tmp_path / "plan.json", model)
    make_plan(model, 5, sampling=Sampling(guidance={"cell_type": 100.0, "donor": -100.0}))


def test_counts_are_refused_and_never_wrapped():
    seeds, rng = np.arange(2, dtype=np.uint64), np.random.default_rng(0)
    data, _, _ = draw(np.full((2, 1), 1.0, np.float32), np.array([1e6, 1e9]), np.full(1, 1e6), seeds, rng)
    assert data.tolist() == pytest.approx([1e6, 1e9], rel=0.01)
    for size, rho in ((3e9, 1.0), (1e30, 1.0), (np.inf, 1.0), (1e3, np.nan)):
        with pytest.raises(BadInput, match="expected 2,147,483,647 at most: lower the guidance"):
            draw(np.full((2, 1), rho, np.float32), np.full(2, size), np.full(1, 1e6), seeds, rng)
    with pytest.raises(BadInput, match="lower the guidance"):
        draw_bernoulli(np.full((2, 3), np.nan, np.float32), seeds)
    block = (np.array([2**31], np.uint32), np.array([0], np.int32), np.array([0, 1]))
    with pytest.raises(BadInput, match="a count of 2,147,483,648 was drawn, above 2,147,483,647"):
        stacked([block], 1)
    block = (np.array([2**31 - 1], np.uint32), np.array([0], np.int32), np.array([0, 1]))
    assert sparse.issparse(stacked([block], 1))
