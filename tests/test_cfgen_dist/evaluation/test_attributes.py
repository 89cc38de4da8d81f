"""Cells by other labels than their type: groups beside their floor, chosen by size, of equal composition by type."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from evaluation_data import same
from scipy import sparse

from cfgen_dist.evaluation import attributes, evaluate, stages
from cfgen_dist.evaluation.attributes import FEWEST_CELLS, MOST_CELLS, choose_groupings
from cfgen_dist.evaluation.by_attribute import group_metrics
from cfgen_dist.evaluation.inputs import open_inputs

pytestmark = pytest.mark.heavy

TYPES, CONDITIONS, DONORS = ("T", "B", "NK"), ("ctrl", "stim"), ("d0", "d1", "d2", "d3")
GENES = 120
OPTIONS = {"sets": 2, "floor_sets": 3, "embedding": "pca"}
N_SETS = {"generated": 2, "floor": 3, "control": 0}


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 5)
        yield


def draw(n_cells, seed):
    """Cells whose genes follow type, condition and donor; donors have other shares of types."""
    fixed, rng = np.random.default_rng(5), np.random.default_rng(seed)
    of_type, of_condition, of_donor = (fixed.normal(0, s, (n, GENES)) for s, n in ((1.0, 3), (0.5, 2), (0.3, 4)))
    donor = rng.choice(4, n_cells, p=[0.4, 0.3, 0.2, 0.1])
    condition = rng.integers(2, size=n_cells)
    shares = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.3, 0.3, 0.4]])[donor].cumsum(axis=1)
    kind = (rng.random((n_cells, 1)) > shares).sum(axis=1).clip(max=2)
    rate = np.exp(of_type[kind] + of_condition[condition] + of_donor[donor]) * rng.gamma(8, 1 / 8, (n_cells, 1))
    obs = pd.DataFrame({
        "cell_type": pd.Categorical(np.array(TYPES)[kind]), "donor": pd.Categorical(np.array(DONORS)[donor]),
        "condition": pd.Categorical(np.array(CONDITIONS)[condition]),
    }, index=[f"{seed}-{i}" for i in range(n_cells)])  # fmt: skip
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)), obs, var)


@pytest.fixture(scope="module")
def real():
    cells = draw(2400, 0)
    cells.obs["split"] = pd.Categorical(np.where(np.random.default_rng(1).random(2400) < 0.3, "test", "train"))
    return cells


@pytest.fixture(scope="module")
def made():
    return draw(3000, 1)


@pytest.fixture(scope="module")
def whole(real, made):
    return evaluate(real, made, **OPTIONS)


def chosen(real, made, seed=0):
    inputs = open_inputs(real, made if isinstance(made, list) else [made], "cell_type")
    test, train = inputs.real.rows_of("test"), inputs.real.rows_of("train")
    return choose_groupings(inputs, test, train, n_sets=N_SETS, seed=seed)


def by(result, *labels):
    return next(found for found in result["attributes"] if found["by"] == list(labels))


def test_groups_have_sets_of_the_same_composition_by_type(real, made):
    groupings, notes = chosen(real, made)
    assert [grouping.by for grouping in groupings] == [
        ("donor",), ("condition",), ("cell_type", "donor"), ("cell_type", "condition"), ("donor", "condition"),
    ]  # fmt: skip
    assert notes == []
    for grouping in groupings:
        tables = {}
        for name, rows in grouping.rows.items():
            obs = (made if name.startswith("generated") else real).obs.iloc[rows]
            for k, group in enumerate(grouping.names):
                of_group = obs[grouping.groups[name] == k]
                assert all((of_group[label] == value).all() for label, value in zip(grouping.by, group, strict=True))
            tables[name] = pd.crosstab(grouping.groups[name], obs["cell_type"].to_numpy())
        assert {*tables} == {"test", "generated-0", "generated-1", "floor-0", "floor-1", "floor-2"}
        assert all(table.equals(tables["test"]) for table in tables.values())
        assert (grouping.wanted >= FEWEST_CELLS).all()
        assert (grouping.wanted <= MOST_CELLS).all()
        split = real.obs["split"].to_numpy()
        assert (split[grouping.rows["test"]] == "test").all()
        assert all((split[grouping.rows[f"floor-{k}"]] == "train").all() for k in range(3))
        assert not np.intersect1d(grouping.rows["generated-0"], grouping.rows["generated-1"]).size


def test_the_choice_is_a_function_of_the_seed(real, made):
    first, again, other = (chosen(real, made, seed)[0] for seed in (0, 0, 1))
    assert [a.digest() for a in first] == [a.digest() for a in again]
    assert first[0].digest() != other[0].digest()


def test_the_largest_of_many_groups_are_compared(real, made, monkeypatch):
    monkeypatch.setattr(attributes, "GROUPS", 3)
    monkeypatch.setattr(attributes, "MOST_CELLS", 50)
    grouping = chosen(real, made)[0][0]
    assert grouping.names == [("d0",), ("d1",), ("d2",)]
    assert grouping.n_groups == 4
    assert (grouping.wanted <= 50).all()


def test_labels_that_cannot_be_compared_by(real, made):
    one, other = real.copy(), made.copy()
    one.obs["barcode"], other.obs["barcode"] = (pd.Categorical(cells.obs_names) for cells in (one, other))
    one.obs["study"] = other.obs["study"] = "s1"
    one.obs["study"], other.obs["study"] = one.obs["study"].astype("category"), other.obs["study"].astype("category")
    one.obs["ours"] = one.obs["donor"]
    for extra in ("w", "x", "y"):
        one.obs[extra], other.obs[extra] = one.obs["donor"], other.obs["donor"]
    groupings, notes = chosen(one, other)
    assert {label for grouping in groupings for label in grouping.by} == {"cell_type", "donor", "condition", "w"}
    assert notes == ["Cells were compared by 3 further labels, not by x, y."]


def test_held_out_donors_have_no_floor(real, made):
    held_out = real.copy()
    held_out.obs["split"] = pd.Categorical(np.where(held_out.obs["donor"].isin(["d2", "d3"]), "test", "train"))
    result = evaluate(held_out, made, **OPTIONS)
    assert by(result, "donor")["verdict"] == (
        "By donor: no group has 30 test and training cells of the same types, so there is no floor."
    )
    assert len(by(result, "condition")["groups"]) == 2


def test_new_cells_of_the_same_law_are_at_their_floor(whole):
    verdicts = [row["verdict"] for found in whole["attributes"] for row in found["groups"]]
    assert len(verdicts) > 20
    assert verdicts.count("off") <= 2
    for found in whole["attributes"]:
        assert found["verdict"] in whole["verdict"]
        for row in found["groups"]:
            assert row["state"] == "compared"
            assert list(row["metrics"]) == [metric.key for metric in group_metrics()]
    json.dumps(whole["attributes"], allow_nan=False)


def test_labels_that_were_swapped_are_seen(real, made, whole):
    """No measure of types notices: every type has the cells that it should have."""
    swapped = made.copy()
    swapped.obs["condition"] = swapped.obs["condition"].cat.rename_categories({"ctrl": "stim", "stim": "ctrl"})
    result = evaluate(real, swapped, **OPTIONS)
    assert result["metrics"]["w2"] == whole["metrics"]["w2"]
    assert [row["verdict"] for row in by(result, "condition")["groups"]] == ["off", "off"]
    assert "2 off it: " in by(result, "condition")["verdict"]
    assert "groups by other labels are off theirs." in result["verdict"][0]
    assert sum(row["verdict"] == "off" for row in by(result, "donor")["groups"]) <= 1


def test_groups_that_were_not_generated_are_named(real, made):
    few = made[~made.obs["donor"].isin(["d1", "d2"]).to_numpy()]
    few = ad.concat([few, made[(made.obs["donor"] == "d2").to_numpy()][:10]])
    found = by(evaluate(real, few, **OPTIONS), "donor")
    assert {row["group"][0]: row["state"] for row in found["groups"]} == {
        "d0": "compared", "d1": "missing", "d2": "thin", "d3": "compared"
    }  # fmt: skip
    assert "d1 (missing), d2 (thin)" in found["verdict"]
    none = made.copy()
    none.obs["donor"] = pd.Categorical(["d9"] * made.n_obs)
    found = by(evaluate(real, none, **OPTIONS), "donor")
    assert {row["state"] for row in found["groups"]} == {"missing"}


def test_the_page_has_groups_floor_and_control(real, made, tmp_path):
    result = evaluate(real, made, tmp_path / "report", control=True, **OPTIONS)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "By other labels" in page
    for found in result["attributes"]:
        assert found["verdict"] in page
    assert "NK / stim" in page
    row = by(result, "donor")["groups"][0]["metrics"]["w2"]
    assert row["control"]["mean"] > 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["attributes"] == result["attributes"]
    monkeypatched = pytest.MonkeyPatch()
    setup = stages.worker_setup
    for name, cells in (("real", real), ("made", made)):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    with monkeypatched.context() as patch:
        patch.setattr(stages, "worker_setup", lambda work, origins, ray: setup(work, origins, "elsewhere"))
        again = evaluate(tmp_path / "real.h5ad", tmp_path / "made.h5ad", control=True, shard_size=70, **OPTIONS)
    assert same(again["attributes"], result["attributes"]), "shards, and workers that open the cells again"


def test_cells_without_types_have_groups_too(real, made):
    bare = made.copy()
    del bare.obs["cell_type"]
    result = evaluate(real, bare, control=True, **OPTIONS)
    assert [found["by"] for found in result["attributes"]] == [["donor"], ["condition"], ["donor", "condition"]]
    several = evaluate(real, [made, draw(2000, 3)], **OPTIONS)
    assert len(several["attributes"]) == 5
    assert by(several, "donor")["groups"][0]["metrics"]["w2"]["generated"]["sd"] > 0
