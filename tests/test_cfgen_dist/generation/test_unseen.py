"""Combinations never seen, in a request: said, refused, made by transfer; plans, size factors, translation."""

import copy
import json
import logging

import numpy as np
import pandas as pd
import pytest

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.generation.options import Sampling
from cfgen_dist.generation.plan import make_plan, read_plan, write_plan
from cfgen_dist.generation.run import generate
from cfgen_dist.generation.shard import sample_shard
from cfgen_dist.model.transfer import Lesson
from cfgen_dist.training.run import train
from cfgen_dist.translation.run import translate
from data_loaders import open_atlas
from data_loaders.errors import BadInput

from ...conftest import TINY

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def single(tiny_run):
    """The tiny model as if type 0 had never been seen in donor 1: its network saw one label at a time."""
    model = CFGen.load(tiny_run)
    keep = ~((model.combinations[:, 0] == 0) & (model.combinations[:, 1] == 1))
    cut = {"combinations": model.combinations[keep], "counts": model.counts[keep]}
    return CFGen(**{**vars(model), **cut, "mean_log_size": model.mean_log_size[keep]})


@pytest.fixture(scope="module")
def joint(single):
    """The same with joint labels, and something learned of changing the donor."""
    config = copy.deepcopy(single.config)
    config.flow.conditioning = "joint"
    donor = single.labels["donor"][1]
    lessons = {"donor": Lesson(1.5, 6, 0.8), f"donor={donor}": Lesson(1.25, 2, 0.7)}
    return CFGen(**{**vars(single), "config": config, "transfer": lessons})


def unseen_labels(model):
    return {"cell_type": model.labels["cell_type"][0], "donor": model.labels["donor"][1]}


def test_it_says_what_is_unseen_and_what_is_done(joint, single, caplog):
    wanted = unseen_labels(joint)
    named = ", ".join(f"{name}={value}" for name, value in wanted.items())
    with caplog.at_level(logging.INFO, "cfgen_dist"):
        assert make_plan(joint, 10, labels=wanted).unseen == "transfer"
    assert f"no training cell was {named}: made from donor={joint.labels['donor'][0]} by what donor=" in caplog.text
    assert "changes in 2 other combinations (weight 1.25; 2 seen combinations, left out in turn, came" in caplog.text
    caplog.clear()
    assert make_plan(joint, 10, labels=wanted, sampling=Sampling(unseen="compose")).unseen == "compose"
    assert f"no training cell was {named}: made by the guidance of each label" in caplog.text
    assert make_plan(single, 10, labels=wanted).unseen == "compose"
    assert "the network saw one label at a time; train with flow.conditioning joint" in caplog.text
    caplog.clear()
    assert make_plan(joint, 10).unseen == "compose", "all combinations were seen"
    assert "no training cell" not in caplog.text


def test_transfer_is_no_default_where_it_came_no_nearer(joint, caplog):
    useless = CFGen(**{**vars(joint), "transfer": {"donor": Lesson(0.75, 4, -0.1)}})
    assert make_plan(useless, 10, labels=unseen_labels(joint)).unseen == "compose"
    assert "seen combinations that were left out in turn came no nearer by it" in caplog.text
    asked = make_plan(useless, 10, labels=unseen_labels(joint), sampling=Sampling(unseen="transfer"))
    assert asked.unseen == "transfer"


def test_rare_combinations_are_said(joint, caplog):
    rare = CFGen(**{**vars(joint), "counts": np.where(np.arange(len(joint.counts)) == 0, 12, joint.counts)})
    with caplog.at_level(logging.INFO, "cfgen_dist"):
        make_plan(rare, 1000)
    assert "fewer than 30 training cells were cell_type=" in caplog.text
    assert "(12): expect little of these" in caplog.text


def test_refusals(joint, single):
    wanted = unseen_labels(joint)
    for model, unseen, message in (
        (joint, "refuse", "no training cell was cell_type=.*`unseen` is refuse, expected combinations that were seen"),
        (single, "transfer", "`unseen=transfer` cannot make them: the network saw one label at a time; train with"),
        (joint, "tranfer", "`unseen`: unknown way 'tranfer', did you mean 'transfer'"),
    ):
        with pytest.raises(BadInput, match=message):
            make_plan(model, 10, labels=wanted, sampling=Sampling(unseen=unseen))
    alone = CFGen(**{**vars(joint), "combinations": joint.combinations[:2], "counts": joint.counts[:2]})
    far = {"cell_type": joint.labels["cell_type"][2], "donor": joint.labels["donor"][1]}
    with pytest.raises(BadInput, match="nothing that was seen with 30 cells or more shows how a label changes"):
        make_plan(alone, 10, labels=far, sampling=Sampling(unseen="transfer", guidance={"cell_type": 0, "donor": 0}))


def test_a_plan_of_seen_combinations_is_as_before_and_one_of_others_keeps_its_way(joint, tmp_path):
    assert "unseen" not in make_plan(joint, 10).to_dict()
    plan = make_plan(joint, 10, labels=unseen_labels(joint))
    write_plan(tmp_path / "out.zarr", plan)
    assert read_plan(tmp_path / "out.zarr.plan.json", joint) == plan
    (tmp_path / "odd.json").write_text(json.dumps(plan.to_dict() | {"unseen": "x"}))
    with pytest.raises(BadInput, match="unseen is x, which no plan of this model has"):
        read_plan(tmp_path / "odd.json", joint)


def test_cells_of_a_shard_do_not_depend_on_how_they_are_made_but_for_the_unseen(joint):
    types, donors = joint.labels["cell_type"], joint.labels["donor"]
    table = pd.DataFrame({"cell_type": [types[0], types[1]], "donor": [donors[1], donors[0]], "n": [30, 30]})
    made = {
        way: sample_shard(joint, 0, make_plan(joint, labels=table, sampling=Sampling(unseen=way)))
        for way in ("transfer", "compose")
    }
    again = sample_shard(joint, 0, make_plan(joint, labels=table))
    assert (made["transfer"][0]["rna"] != again[0]["rna"]).nnz == 0, "the default, and the same twice"
    codes = made["transfer"][1]
    assert (codes == made["compose"][1]).all()
    differ = np.asarray((made["transfer"][0]["rna"] != made["compose"][0]["rna"]).sum(axis=1)).ravel() > 0
    assert differ[codes[:, 0] == 0].mean() > 0.9


def test_size_factors_of_unseen_combinations_are_scaled(joint):
    sizes = np.zeros(len(joint.combinations))
    sizes[joint.combinations[:, 1] == 1] = np.log(4.0)  # donor 1 has four times the counts
    own = CFGen(**{**vars(joint), "mean_log_size": sizes + joint.size_factor.mean.mean()})
    plan = make_plan(own, 400, labels=unseen_labels(own))
    composed = make_plan(own, 400, labels=unseen_labels(own), sampling=Sampling(unseen="compose"))
    totals = [np.log(sample_shard(own, 0, each)[0]["rna"].sum(axis=1)).mean() for each in (plan, composed)]
    law = own.size_factor
    category = 0 if law.covariate in (None, "cell_type") else 1
    expected = law.mean.mean() + np.log(4.0) - law.mean[category]
    assert totals[0] - totals[1] == pytest.approx(expected, abs=0.1)


def test_the_whole_road_of_a_combination_held_out(tiny_atlas, tmp_path, capsys):
    """Ingest without it, train on joint labels, see what was learned, generate and translate it."""
    types, donors = (list(open_atlas(tiny_atlas).categories(name)) for name in ("cell_type", "donor"))
    held = f"cell_type={types[0]},donor={donors[1]}"
    atlas, run, out = (str(tmp_path / name) for name in ("atlas.zarr", "run", "made.zarr"))
    assert main(["ingest", str(tiny_atlas), atlas, "--labels", "cell_type,donor", "--holdout", held]) == 0
    test = open_atlas(atlas).rows(split="test")
    assert set(open_atlas(atlas).codes("cell_type")[test]) == {0}
    assert set(open_atlas(atlas).codes("donor")[test]) == {1}
    assert open_atlas(atlas).card["options"]["held_out"] == [held.replace(",", ", ")]
    train(atlas, run, load_config(overrides={**TINY, "flow.conditioning": "joint"}))
    lesson = CFGen.load(run).transfer["donor"]
    assert 1 <= lesson.combinations <= 4, "of the two other types, in both donors"
    assert main(["describe", run]) == 0
    assert "5 of 6 possible" in (told := capsys.readouterr().out)
    assert f"donor by transfer with weight {lesson.weight:g}" in told
    assert main(["generate", run, out, "--cells", "50", "--labels", held, "--unseen", "transfer"]) == 0
    assert set(open_atlas(out).codes("donor")) == {list(open_atlas(out).categories("donor")).index(donors[1])}
    generate(run, tmp_path / "again.zarr", plan=out + ".plan.json")
    assert open_atlas(tmp_path / "again.zarr").contents == open_atlas(out).contents
    where = {"cell_type": types[0], "donor": donors[0]}
    moved = translate(run, atlas, tmp_path / "moved.zarr", {"donor": donors[1]}, where=where, unseen="transfer")
    rows = open_atlas(atlas).rows(cell_type=types[0], donor=donors[0])
    assert moved["cells"] == len(rows)
    assert moved["scores"]["after"]["target_w2"] is not None, "against the cells held out"
    assert main(["translate", run, atlas, out + "2", "--to", f"donor={donors[1]}", "--where", "donor=nobody"]) == 2
    assert "obs column 'donor' has no category 'nobody'; valid: donor_0, donor_1" in capsys.readouterr().err
