"""Plan, shards, bundle: what is asked is what is made, and how it is run does not change a count."""

import copy
import json
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.plan import make_plan, read_plan
from cfgen_dist.generation.request import read_label_table
from cfgen_dist.generation.run import generate
from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.model.build import build_autoencoder
from cfgen_dist.model.size_factor import SizeFactorLaw
from data_loaders import open_atlas
from data_loaders.errors import BadInput


@pytest.fixture(scope="module")
def model(tiny_run):
    return CFGen.load(tiny_run)


def test_shards_divide_the_plan(model):
    plan = make_plan(model, 1003, sampling=Sampling(seed=4, shard_size=100))
    shards = [plan.shard_codes(s) for s in range(plan.n_shards)]
    assert {len(s) for s in shards} <= {91, 92}, "1003 cells over 11 shards"
    codes, counts = np.unique(np.concatenate(shards), axis=0, return_counts=True)
    asked = {tuple(code): n for code, n in zip(plan.codes, plan.counts, strict=True)}
    assert {tuple(code): n for code, n in zip(codes.tolist(), counts, strict=True)} == asked


def test_labels_follow_the_observed_proportions(model):
    plan = make_plan(model, 100_000)
    expected = {
        tuple(c): n for c, n in zip(model.combinations.tolist(), model.counts / model.counts.sum(), strict=True)
    }
    for code, n in zip(plan.codes, plan.counts, strict=True):
        assert n / 100_000 == pytest.approx(expected[tuple(code)], abs=0.01)


def test_fixed_labels_and_unseen_combinations(model):
    types, donors = model.labels["cell_type"], model.labels["donor"]
    cells = model.generate(50, labels={"cell_type": types[1]})
    assert set(cells.obs["cell_type"]) == {types[1]}
    assert len(set(cells.obs["donor"])) > 1
    diagonal = {"combinations": np.array([[0, 1], [1, 0], [2, 0]]), "counts": np.array([5, 5, 5])}
    unseen = CFGen(**{**vars(model), **diagonal})
    cells = unseen.generate(10, labels={"cell_type": types[2], "donor": donors[-1]})
    assert set(cells.obs["cell_type"]) == {types[2]}
    assert set(cells.obs["donor"]) == {donors[-1]}


def test_a_table_says_exactly_what_to_make(model):
    types, donors = model.labels["cell_type"], model.labels["donor"]
    table = pd.DataFrame({"cell_type": [types[0], types[2]], "donor": [donors[0], donors[1]], "n": [7, 3]})
    cells = model.generate(labels=table)
    assert cells.obs.groupby(["cell_type", "donor"], observed=True).size().to_dict() == {
        (types[0], donors[0]): 7,
        (types[2], donors[1]): 3,
    }


def test_generated_cells_are_integer_sparse_and_labelled(model):
    cells = model.generate(64, seed=1)
    assert cells.X.dtype.kind == "i"
    assert cells.X.data.min() >= 1
    assert cells.X.has_sorted_indices
    assert list(cells.var_names) == list(model.genes)
    assert (cells.obs["size_factor"] == np.asarray(cells.X.sum(axis=1)).ravel()).all()
    assert cells.obs["is_generated"].all()
    assert json.loads(cells.uns["generation"])["plan"]["seed"] == 1
    assert (model.generate(64, seed=1).X != cells.X).nnz == 0
    assert (model.generate(64, seed=2).X != cells.X).nnz > 0


def test_a_shard_does_not_depend_on_the_others(model):
    plan = make_plan(model, 300, sampling=Sampling(shard_size=100))
    alone = sample_shard(model, 2, plan)
    for shard in (0, 1):
        sample_shard(model, shard, plan)
    again = sample_shard(model, 2, plan)
    assert (alone[0]["rna"] != again[0]["rna"]).nnz == 0
    assert (alone[1] == again[1]).all()


def test_the_store_holds_what_memory_holds(model, tiny_run, tmp_path):
    generate(tiny_run, tmp_path / "cells.zarr", 250, seed=5, shard_size=100)
    store = ad.read_zarr(tmp_path / "cells.zarr")
    memory = model.generate(250, seed=5)
    plan = make_plan(model, 250, sampling=Sampling(seed=5, shard_size=100))
    counts = np.concatenate([sample_shard(model, s, plan)[0]["rna"].toarray() for s in range(plan.n_shards)])
    np.testing.assert_array_equal(store.X.toarray(), counts)
    assert store.obs["cell_type"].value_counts().to_dict() == memory.obs["cell_type"].value_counts().to_dict()
    assert store.obs_names.is_unique
    atlas = open_atlas(tmp_path / "cells.zarr")
    assert atlas.n_cells == 250
    assert atlas.categories("cell_type") == model.labels["cell_type"]
    assert not (tmp_path / "cells.zarr.parts").exists()


def test_killed_generation_resumes_to_the_same_counts(tiny_run, tmp_path):
    """SIGKILL in the middle, then the same command with --resume."""
    command = [sys.executable, "-m", "cfgen_dist", "generate", tiny_run, tmp_path / "cells.zarr"]
    command += ["--cells", "4000", "--shard-size", "20", "--seed", "3"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    parts = tmp_path / "cells.zarr.parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("shard-*.npz"))) < 10:
        assert time.monotonic() < deadline
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cells.zarr").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("shard-*.npz")}
    assert 10 <= len(kept) < 200
    with pytest.raises(BadInput, match=r"holds an interrupted generation: `resume=True` finishes it"):
        generate(tiny_run, tmp_path / "cells.zarr", 4000, seed=3, shard_size=20)
    with pytest.raises(BadInput, match="holds shards of another plan"):
        generate(tiny_run, tmp_path / "cells.zarr", 4000, seed=4, shard_size=20, resume=True)
    generate(tiny_run, tmp_path / "cells.zarr", 4000, seed=3, shard_size=20, resume=True)
    generate(tiny_run, tmp_path / "whole.zarr", 4000, seed=3, shard_size=20)
    resumed, whole = ad.read_zarr(tmp_path / "cells.zarr"), ad.read_zarr(tmp_path / "whole.zarr")
    assert (resumed.X != whole.X).nnz == 0
    assert (resumed.obs == whole.obs).all(axis=None)


def test_a_finished_generation_is_left_alone(tiny_run, tmp_path):
    generate(tiny_run, tmp_path / "cells.zarr", 50)
    before = (tmp_path / "cells.zarr" / "zarr.json").stat().st_mtime_ns
    generate(tiny_run, tmp_path / "cells.zarr", 50, resume=True)
    assert (tmp_path / "cells.zarr" / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r"exists already$"):
        generate(tiny_run, tmp_path / "cells.zarr", 50)
    with pytest.raises(BadInput, match="made by another plan"):
        generate(tiny_run, tmp_path / "cells.zarr", 51, resume=True)


def test_theta_and_size_factors_of_a_category_are_those_of_its_cells(model):
    """Theta and the law of size factors per donor, set by hand: the variance and the depth of each donor follow."""
    config = copy.deepcopy(model.config)
    config.autoencoder.theta_covariate, config.sampling.guidance = "donor", 0.0  # one law of latents for both donors
    weights = model.autoencoder.state_dict()
    weights["log_theta"] = torch.tensor([[-1.5], [12.0]]).expand(2, len(model.genes))
    network = build_autoencoder(config.autoencoder, config.modalities, {"rna": len(model.genes)}, n_dispersions=2)
    network.load_state_dict(weights)
    law = SizeFactorLaw.fit(np.array([300.0, 3000.0]), np.array([0, 1]), 2, kind="lognormal", covariate="donor")
    other = CFGen(**{**vars(model), "config": config, "autoencoder": network.eval(), "size_factor": law})
    excess = []
    for code, (donor, depth) in enumerate(zip(model.labels["donor"], (300, 3000), strict=True)):
        assert law.mean[code] == pytest.approx(np.log(depth)), "a category of one cell has its size factor"
        assert law.std[code] == 0
        cells = other.generate(4000, labels={"donor": donor}, seed=1)
        assert cells.X.sum(axis=1).mean() == pytest.approx(depth, rel=0.05)
        counts = cells.X.toarray().astype(float)
        mean, variance = counts.mean(axis=0), counts.var(axis=0)
        excess.append(np.median((variance - mean) / mean**2))  # 1 / theta, and what the latents add to both donors
    assert excess[0] == pytest.approx(np.exp(1.5), rel=0.3)
    assert excess[1] < 0.5


def test_parts_that_a_killed_run_left_are_removed(tiny_run, tmp_path):
    """Killed after the store was there and before its parts were gone."""
    generate(tiny_run, tmp_path / "cells.zarr", 50)
    (tmp_path / "cells.zarr.parts").mkdir()
    generate(tiny_run, tmp_path / "cells.zarr", 50, resume=True)
    assert not (tmp_path / "cells.zarr.parts").exists()


def test_a_label_without_guidance_is_named(model, caplog):
    kind = model.labels["cell_type"][1]
    with caplog.at_level("WARNING", logger="cfgen_dist"):
        make_plan(model, 5, labels={"cell_type": kind}, sampling=Sampling({"cell_type": 1.0}))
        assert not caplog.records
        make_plan(model, 5, labels={"cell_type": kind}, sampling=Sampling({"donor": 1.0}))
    assert f"cell_type={kind} is fixed, but its guidance weight is 0: cells are labelled so and not made" in caplog.text


@pytest.mark.parametrize(
    ("entry", "value", "named"),
    [
        ("codes", [[99, 0]], "codes"),
        ("codes", [[0]], "codes"),
        ("codes", "all", "codes"),
        ("counts", [-5], "counts"),
        ("counts", [0], "counts"),
        ("counts", [1, 2], "counts"),
        ("weights", [1.0], "weights"),
        ("weights", [1.0, float("nan")], "weights"),
        ("batch_size", 0, "batch_size"),
        ("steps", "ten", "steps"),
        ("shard_size", 1.5, "shard_size"),
        ("solver", ["midpoint"], "solver"),
        ("seed", None, "seed"),
        ("device", 0, "device"),
    ],
)
def test_a_plan_edited_by_hand_is_checked(model, tmp_path, entry, value, named):
    plan = make_plan(model, 5).to_dict() | {"codes": [[0, 0]], "counts": [5]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert read_plan(tmp_path / "plan.json", model).n_cells == 5
    (tmp_path / "plan.json").write_text(json.dumps(plan | {entry: value}))
    with pytest.raises(BadInput, match=rf"plan\.json: {named} is .*, which no plan of this model has"):
        read_plan(tmp_path / "plan.json", model)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"n": 0}, "number of cells is 0, expected 1 to"),
        ({"n": -5}, "number of cells is -5"),
        ({"n": None}, "`cells`: none given; expected a number of cells"),
        ({"n": 5, "labels": {"celltype": "x"}}, "no attribute 'celltype', did you mean 'cell_type'?"),
        ({"n": 5, "labels": {"cell_type": "type_99"}}, "cell_type: unknown category 'type_99', did you mean"),
        ({"n": 5, "guidance": {"tissue": 1.0}}, "guidance for 'tissue', but the model has no such attribute"),
        ({"n": 5, "guidance": {"donor": float("nan")}}, "guidance of donor is nan, expected a finite number"),
        ({"n": 5, "solver": "dopri"}, "unknown solver 'dopri', did you mean 'dopri5'?"),
        ({"n": 5, "steps": 0}, "steps is 0, expected at least 1"),
        ({"n": 5, "seed": -1}, "seed is -1, expected 0 to 2**63 - 1"),
        ({"n": 10**13}, "number of cells is 10000000000000, expected 1 to"),
        ({"n": 5, "labels": {"cell_type": ["type_0", "type_1"]}}, "expected one category; a table asks for several"),
        ({"n": 5, "shard_size": 0}, "shard size is 0, expected at least 1"),
        ({"n": 5, "device": "gpu"}, "unknown device 'gpu', expected cpu or cuda"),
    ],
)
def test_impossible_requests(model, request_, message):
    with pytest.raises(BadInput) as error:
        make_plan(model, request_.pop("n"), labels=request_.pop("labels", None), sampling=Sampling(**request_))
    assert message in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: benchmarks/gpu.py computes on it")
def test_a_gpu_that_is_not_there_is_refused(model, tiny_run, tmp_path, capsys):
    message = "device is cuda, but torch finds no GPU here; expected cpu"
    for ray in ([], ["--ray", "local"]):
        command = ["generate", str(tiny_run), str(tmp_path / "cells.zarr"), "--cells", "5", "--device", "cuda"]
        assert main([*command, *ray]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(BadInput, match=message):
        model.generate(5, device="cuda")
    assert list(tmp_path.iterdir()) == []
    assert make_plan(model, 5, sampling=Sampling(device="cuda")).digest != make_plan(model, 5).digest, (
        "a GPU makes other cells"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="donor"), "label table: column 'donor' is missing, found 'cell_type', 'n'"),
        (lambda t: t.rename(columns={"n": "cells"}), "label table: unknown column 'cells'"),
        (lambda t: t.assign(n=[1, -2]), "label table: n is -2 in row 1, expected a whole number, zero or more"),
        (lambda t: t.assign(n=[1.5, 2]), "label table: n is 1.5 in row 0"),
        (lambda t: t.assign(n=0), "it asks for 0 cells"),
        (lambda t: t.assign(n=[np.inf, 1]), "n is inf in row 0"),
        (lambda t: t.assign(n=[9e18, 9e18]), "in row 0"),
        (lambda t: t.assign(donor="nobody"), "donor: unknown category 'nobody'"),
    ],
)
def test_bad_label_tables(model, change, message):
    types, donors = model.labels["cell_type"], model.labels["donor"]
    table = pd.DataFrame({"cell_type": types[:2], "donor": donors[:2], "n": [1, 2]})
    with pytest.raises(BadInput) as error:
        make_plan(model, labels=change(table))
    assert message in str(error.value)


def test_unreadable_label_tables(tmp_path):
    with pytest.raises(BadInput, match=r"label table .*none.csv: no such file"):
        read_label_table(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(BadInput, match=r"label table .*empty.csv: an empty file"):
        read_label_table(tmp_path / "empty.csv")


def test_bundles_that_cannot_be_trusted(tiny_run, tmp_path):
    with pytest.raises(BadInput, match=r"no card.json there; expected a model bundle"):
        CFGen.load(tmp_path)

    def broken(name, change):
        copy = tmp_path / name
        shutil.copytree(tiny_run / "bundle", copy)
        change(copy)
        with pytest.raises(BadInput) as error:
            CFGen.load(copy)
        return str(error.value)

    assert "flow.safetensors is missing" in broken("a", lambda p: (p / "flow.safetensors").unlink())
    weights = "autoencoder.safetensors"
    cut = broken("b", lambda p: (p / weights).write_bytes((p / weights).read_bytes()[:-1]))
    assert "autoencoder.safetensors is damaged" in cut
    assert "card.json is not valid JSON" in broken("c", lambda p: (p / "card.json").write_text("{"))
    newer = broken("d", lambda p: (p / "card.json").write_text('{"format": 99, "model": "CFGen"}'))
    assert "format 99 of 'CFGen', expected format 1" in newer


def test_bundle_survives_a_round_trip(model, tmp_path):
    model.save(tmp_path / "copy")
    copy = CFGen.load(tmp_path / "copy")
    assert (copy.generate(20, seed=9).X != model.generate(20, seed=9).X).nnz == 0
    with pytest.raises(BadInput, match="exists already"):
        model.save(tmp_path / "copy")


def test_a_category_that_was_never_trained_is_refused(model):
    types, donors = model.labels["cell_type"], model.labels["donor"]
    held_out = model.combinations[:, 1] == 0
    partial = CFGen(**{**vars(model), "combinations": model.combinations[held_out], "counts": model.counts[held_out]})
    with pytest.raises(BadInput, match=f"donor: no training cell was '{donors[1]}', so the model has not learned it"):
        partial.generate(5, labels={"donor": donors[1]})
    cells = partial.generate(5, labels={"donor": donors[1]}, guidance={"cell_type": 1.0})
    assert set(cells.obs["donor"]) == {donors[1]}
    assert set(cells.obs["cell_type"]) <= set(types)


def test_a_table_and_a_number_must_agree(model):
    table = pd.DataFrame({"cell_type": model.labels["cell_type"][:1], "donor": model.labels["donor"][:1], "n": [7]})
    with pytest.raises(BadInput, match="number of cells is 8, but the label table asks for 7"):
        model.generate(8, labels=table)


def test_labels_of_a_table_are_read_as_text(tmp_path):
    (tmp_path / "table.csv").write_text("cell_type,n\n001,3\nNA,4\n")
    assert read_label_table(tmp_path / "table.csv")["cell_type"].tolist() == ["001", "NA"]


def test_a_card_that_was_edited_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run / "bundle", tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle" / "card.json").read_text())
    card["labels"] = dict(reversed(card["labels"].items()))
    (tmp_path / "bundle" / "card.json").write_text(json.dumps(card))
    with pytest.raises(BadInput, match=r"card.json was changed after it was written"):
        CFGen.load(tmp_path / "bundle")
