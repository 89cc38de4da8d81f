"""Guidance studies: the scores against dense formulas, the grid and its files, joint against composed, refusals."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.cli.guide import span
from cfgen_dist.guidance_sweep.run import choose, guidance_table, guide
from cfgen_dist.guidance_sweep.scores import Target
from data_loaders import open_atlas
from data_loaders.errors import BadInput

SWEEP = {"cell_type": [0.0, 1.0, 2.0]}


@pytest.fixture(scope="module")
def model(tiny_run):
    return CFGen.load(tiny_run)


@pytest.fixture(scope="module")
def joint(model):
    """The same networks, their labels taken together."""
    config = copy.deepcopy(model.config)
    config.flow.conditioning = "joint"
    return CFGen(**{**vars(model), "config": config})


@pytest.fixture(scope="module")
def study(tiny_run, tiny_atlas, joint, tmp_path_factory):
    out = tmp_path_factory.mktemp("guide") / "study"
    result = guide(tiny_run, tiny_atlas, out, SWEEP, fix={"donor": 1.0}, joint=joint, cells=40, split="all", steps=3)
    return out, result


def test_every_setting_is_there(study, tiny_atlas):
    out, result = study
    assert sorted(file.name for file in out.iterdir()) == ["cells.png", "guidance.csv", "guidance.json", "scores.png"]
    assert json.loads((out / "guidance.json").read_text()) == result
    table = pd.read_csv(out / "guidance.csv")
    assert table["model"].tolist() == ["composed"] * 3 + ["joint"] * 3
    assert table["w_cell_type"].tolist() == [0, 1, 2] * 2
    assert table["w_donor"].tolist() == [1, 1, 1, 0, 1, 2]
    real = open_atlas(tiny_atlas)
    most = pd.crosstab(real.obs("cell_type"), real.obs("donor")).stack()
    assert tuple(result["target"].values()) == most.idxmax()
    assert result["target_cells"] == most.max()
    assert result["floor"] is None, "all real cells are compared with"
    for name in ("cells.png", "scores.png"):
        assert imread(out / name).std() > 0.05, "something is drawn"


def test_a_grid_of_two_attributes_with_a_floor(model, tiny_atlas, tmp_path):
    sweep = {"cell_type": [0.0, 1.0], "donor": [0.0, 1.0, 2.0]}
    result = guide(model, tiny_atlas, tmp_path / "grid", sweep, cells=20, split="train", steps=2)
    pairs = [tuple(setting["weights"].values()) for setting in result["settings"]]
    assert pairs == [(a, b) for a in (0, 1) for b in (0, 1, 2)]
    assert result["floor"]["spread"] == pytest.approx(1, abs=0.5)
    table = guidance_table(result)
    assert table["model"].tolist() == ["composed"] * 6 + ["real cells"]
    assert table["chosen"].tolist()[:6] == [number == result["chosen"] for number in range(6)]
    for setting, worst in zip(result["settings"], table["worst"], strict=False):
        distances = setting["distances"]
        assert setting["worst"] == worst == max(distances.values()) == distances[setting["worst_measure"]]
        assert setting["average"] == pytest.approx(np.mean([*distances.values()]))
        assert set(distances) == set(result["measures_floor"]["mean"]) >= {"w2", "auc_genes", "zeros", "fold_slope"}
    assert choose(result["settings"]) == result["chosen"]


def setting(weight, *, worst=5.0, average=2.0, correlation_error=0.2, model="composed"):
    """A setting with what its choice depends on."""
    return {
        "model": model, "weights": {"cell_type": weight}, "worst": worst, "worst_measure": "w2", "worst_error": 0.1,
        "average": average, "average_error": 0.1, "distances": {"w2": worst},
        "measures": {"correlation_error": correlation_error, "coverage": 0.9},
    }  # fmt: skip


def test_the_choice_of_weights():
    rows = [setting(0), setting(1), setting(1.5, average=1.0), setting(3, worst=2.0, correlation_error=1.1)]
    assert choose(rows) == 2, "weight 3 costs too much structure, whatever it is nearer in"
    assert choose([setting(2), setting(1), setting(0.5)]) == 1, "of equals the most faithful"
    joint = [setting(1, model="joint", correlation_error=0.9), setting(1.2, model="joint", correlation_error=0.92)]
    assert choose([setting(1), *joint]) == 0, "each model is held to its own weight 1"


def test_without_measures_there_is_no_choice(model, tiny_atlas, tmp_path):
    sweep = {"cell_type": [1.0]}
    result = guide(model, tiny_atlas, tmp_path / "quick", sweep, cells=20, split="train", steps=2, measures=False)
    assert result["chosen"] is result["measures_floor"] is None
    assert "measures" not in result["settings"][0]
    assert result["floor"] is not None


def test_a_weight_of_zero_is_the_observed_mixture(model, tiny_atlas, tmp_path):
    result = guide(model, tiny_atlas, tmp_path / "zero", {"cell_type": [0.0]}, cells=60, split="all", steps=3)
    cells = model.generate(60, guidance={}, steps=3)
    atlas = open_atlas(tiny_atlas)
    target = Target.fit(atlas, None, result["target"], 0, "all")
    expected = target.score(target.project(cells.X))
    assert result["settings"][0]["w2"] == pytest.approx(expected["w2"], rel=1e-9)


def test_scores_are_their_formulas(tiny_atlas):
    atlas = open_atlas(tiny_atlas)
    labels = {name: atlas.categories(name)[0] for name in ("cell_type", "donor")}
    target = Target.fit(atlas, None, labels, 0, "all")
    cells = target.project(atlas.read(atlas.rows(cell_type=atlas.categories("cell_type")[1])[:50]).to_scipy())
    scores = target.score(cells)
    distance = ((cells[:, None] - target.all_pcs[None]) ** 2).sum(-1)
    near = np.argsort(distance, axis=1)[:, :10]
    both = target.has["cell_type"] & target.has["donor"]
    assert scores["on_target"] == pytest.approx(both[near].mean())
    assert scores["on_donor"] == pytest.approx(target.has["donor"][near].mean())
    assert scores["mmd"] == pytest.approx(((cells.mean(axis=0) - target.pcs.mean(axis=0)) ** 2).sum())

    def pairwise(x):  # mean squared distance of two different cells is twice the total variance
        return ((x[:, None] - x[None]) ** 2).sum() / (len(x) * (len(x) - 1))

    assert scores["spread"] == pytest.approx(pairwise(cells) / pairwise(target.pcs))
    own = target.score(target.pcs)
    assert own["w2"] == pytest.approx(0, abs=1e-6)
    assert own["spread"] == own["coverage"] == own["precision"] == 1

    among = ((target.all_pcs[:, None] - target.all_pcs[None]) ** 2).sum(-1)
    np.fill_diagonal(among, np.inf)
    expected = both[np.argsort(among, axis=1)[:, :10]][both].mean()
    assert target.purity()["on_target"] == pytest.approx(expected)


def test_the_same_study_twice(study, tiny_run, tiny_atlas, joint, tmp_path):
    again = guide(
        tiny_run, tiny_atlas, tmp_path / "again", SWEEP, fix={"donor": 1.0}, joint=joint, cells=40, split="all", steps=3
    )
    assert again == study[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sweep": {"celltype": [1.0]}}, "sweep: the model was not trained on 'celltype', did you mean 'cell_type'?"),
        ({"fix": {"tissue": 1.0}}, "fix: the model was not trained on 'tissue', valid: cell_type, donor"),
        ({"sweep": {}}, "sweep: 0 attributes given, expected one or two"),
        ({"fix": {"cell_type": 1.0}}, "cell_type is swept and fixed; expected one of the two"),
        ({"sweep": {"cell_type": [float("nan")]}}, "weights of cell_type: [nan], expected finite numbers"),
        ({"sweep": {"cell_type": []}}, "weights of cell_type: [], expected finite numbers"),
        ({"sweep": {"cell_type": [0.0] * 201}}, "sweep: 201 settings, expected 200 at most"),
        ({"cells": 3}, "cells is 3, expected at least 10"),
        ({"split": "tets"}, "split: unknown 'tets', did you mean 'test'?"),
        ({"embedding": "umpa"}, "embedding: unknown 'umpa', did you mean 'umap'?"),
        ({"target": {"cell_type": "type_77"}}, "cell_type: unknown category 'type_77', did you mean"),
        ({"target": {"donor": "donor_0"}}, "target: 'donor' is neither swept nor fixed"),
        ({"fix": {"donor": 1.0}, "target": {"donor": "donor_0"}}, "target: no category of cell_type given, such as"),
        ({"split": "val", "fix": {"donor": 1.0}}, "val cells are cell_type="),
        ({"solver": "x"}, "unknown solver 'x'"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
    ],
)
def test_impossible_requests(model, tiny_atlas, tmp_path, arguments, message):
    sweep = arguments.pop("sweep", SWEEP)
    if arguments.get("split") == "val":  # the tiny atlas has few of these
        arguments["target"] = {"cell_type": model.labels["cell_type"][-1], "donor": model.labels["donor"][-1]}
    with pytest.raises(BadInput) as error:
        guide(model, tiny_atlas, tmp_path / "no", sweep, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_models_of_the_wrong_kind(model, joint, tiny_atlas, tmp_path):
    with pytest.raises(BadInput, match=r"the model was trained with flow.conditioning joint, expected single"):
        guide(joint, tiny_atlas, tmp_path / "no", SWEEP)
    with pytest.raises(BadInput, match=r"the joint model was trained with flow.conditioning single, expected joint"):
        guide(model, tiny_atlas, tmp_path / "no", SWEEP, joint=model)
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="there: exists already"):
        guide(model, tiny_atlas, tmp_path / "there", SWEEP)


def test_other_genes(model, tmp_path):
    from data_loaders import simulate

    simulate(tmp_path / "genes.zarr", cells=100, genes=90, types=3, donors=2, density=0.3, seed=1)
    with pytest.raises(BadInput, match=r"its 90 genes are not the 120 of the model"):
        guide(model, tmp_path / "genes.zarr", tmp_path / "no", SWEEP)


def test_spans():
    assert span("a", "0:3:0.5") == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert span("a", "0:1:0.1")[-1] == 1
    assert span("a", "2") == [2]
    for text in ("0:3", "a:b:c", "nan", "0:inf:1", ""):
        with pytest.raises(BadInput, match="expected FROM:TO:STEP, such as"):
            span("a", text)
    for text in ("0:3:0", "3:0:1"):
        with pytest.raises(BadInput, match="expected FROM not above TO and a STEP above 0"):
            span("a", text)
    with pytest.raises(BadInput, match="30,001 weights, expected 200 at most"):
        span("a", "0:3:0.0001")


def test_the_command(tiny_run, tiny_atlas, tmp_path, capsys):
    command = ["guide", tiny_run, tiny_atlas, "--out", tmp_path / "a", "--sweep", "cell_type=0:1:1", "--split", "all"]
    assert main([*map(str, command), "--fix", "donor=1", "--cells", "20", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "composed" in shown
    assert "on_target" in shown
    assert "guidance.csv" in shown
    assert "Worst distance" not in shown, "without cells outside of the split there is no floor"
    floored = [*command[:3], "--out", tmp_path / "b", "--sweep", "cell_type=0:1:1", "--split", "train"]
    assert main([*map(str, floored), "--fix", "donor=1", "--cells", "20", "--steps", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "The trade-off by weight of cell_type/donor" in shown
    assert "Worst distance to the floor" in shown
    assert "chosen" in shown
    assert main([*map(str, command[:5]), "--sweep", "cell_type"]) == 2
    assert "--sweep has 'cell_type', expected NAME=VALUE" in capsys.readouterr().err


def test_model_atlas_and_study_in_a_bucket(bucket, tiny_run, tiny_atlas, tmp_path, capsys):
    bucket.put_folder("run/bundle", tiny_run / "bundle")
    bucket.put_folder("atlas.zarr", tiny_atlas)
    options = ["--sweep", "cell_type=0:1:1", "--cells", "20", "--split", "all", "--steps", "2", "--no-measures"]
    here = ["guide", str(tiny_run), str(tiny_atlas), "--out", str(tmp_path / "study"), *options]
    there = ["guide", f"{bucket.url}/run", f"{bucket.url}/atlas.zarr", "--out", f"{bucket.url}/study", *options]
    assert main(here) == main(there) == 0
    assert f"{bucket.url}/study/guidance.json, guidance.csv" in capsys.readouterr().out
    assert bucket.keys("study") == sorted(f"study/{file.name}" for file in (tmp_path / "study").iterdir())
    for name in ("guidance.json", "guidance.csv"):
        assert bucket.read(f"study/{name}") == (tmp_path / "study" / name).read_bytes()
    assert main(there) == 2
    assert f"{bucket.url}/study: exists already; expected an address where" in capsys.readouterr().err
