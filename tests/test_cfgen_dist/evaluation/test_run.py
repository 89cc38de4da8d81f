"""`evaluate` and its command: stores and AnnData in, metrics and report out, every mistake answered."""

import json
import resource
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from evaluation_data import generated, pbmc68k

from cfgen_dist.cli import main
from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.metrics.catalogue import DISTANCES, metrics_of
from cfgen_dist.evaluation.metrics.metric import Metric
from cfgen_dist.evaluation.verdict import judge, number
from data_loaders import open_atlas
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def real():
    return pbmc68k()


@pytest.fixture(scope="module")
def made(real):
    return generated(real)


@pytest.fixture(scope="module")
def result(real, made):
    return evaluate(real, made, floor_sets=3)


@pytest.fixture(scope="module")
def quick(real, made):
    return evaluate(real, made, sets=1, floor_sets=1)


@pytest.fixture(scope="module")
def stores(real, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    real.write_zarr(folder / "real.zarr")
    made.write_h5ad(folder / "made.h5ad")
    return folder


def change_obs(cells, **columns):
    """A copy with other obs columns; None drops one."""
    cells = cells.copy()
    for name, values in columns.items():
        if values is None:
            del cells.obs[name]
        else:
            cells.obs[name] = values
    return cells


def test_every_metric_has_its_floor(result):
    assert list(result["metrics"]) == [metric.key for metric in metrics_of()]
    for row in result["metrics"].values():
        assert isinstance(row["generated"]["mean"], float)
        assert isinstance(row["floor"]["mean"], float)
        assert row["verdict"] in ("at", "near", "off")
        assert "control" not in row
    assert result["n_sets"] == {"generated": 3, "floor": 3, "control": 0}
    assert result["protocol"] == "centred"
    json.dumps(result, allow_nan=False)


def test_the_verdict_finds_what_is_missing(result):
    """The generated cells of this test have independent genes: right in every gene, wrong between them."""
    metrics = result["metrics"]
    assert metrics["correlation_error"]["verdict"] == "off"
    assert metrics["correlation_error"]["generated"]["mean"] == pytest.approx(1, abs=0.2)
    assert metrics["correlation_error"]["floor"]["mean"] == pytest.approx(0, abs=0.2)
    assert metrics["zeros"]["verdict"] == "at"
    assert metrics["size_factor"]["verdict"] == "off"
    assert any("off the floor" in sentence and "correlation error" in sentence for sentence in result["verdict"])


def test_types_and_notes(result, real):
    test = real.obs["cell_type"][real.obs["split"] == "test"].value_counts()
    assert {row["type"]: row["cells_test"] for row in result["types"]} == test[test > 0].to_dict()
    assert result["types"][0]["cells_test"] == test.max()
    assert any("Fewer than 10 cells in a set" in note and "CD34+" in note for note in result["notes"])
    assert any("gene-gene correlation" in note for note in result["notes"])


def test_paths_atlases_and_anndata_give_the_same(stores, quick):
    for real in (stores / "real.zarr", open_atlas(stores / "real.zarr")):
        again = evaluate(real, stores / "made.h5ad", sets=1, floor_sets=1)
        assert again["metrics"] == quick["metrics"]
    assert again["provenance"]["real"]["path"] == str(stores / "real.zarr")


def test_dense_counts_are_as_good(real, made, quick, tmp_path):
    ad.AnnData(made.X.toarray(), made.obs, made.var).write_h5ad(tmp_path / "dense.h5ad")
    again = evaluate(real, tmp_path / "dense.h5ad", sets=1, floor_sets=1)
    assert again["metrics"] == quick["metrics"]


def test_several_stores_are_one_set_each(real, made):
    again = evaluate(real, [made, generated(real, seed=1)], floor_sets=1)
    assert again["n_sets"]["generated"] == 2
    assert again["metrics"]["w2"]["generated"]["sd"] > 0


def test_genes_in_another_order_are_put_in_order(real, made, quick):
    again = evaluate(real, made[:, ::-1].copy(), sets=1, floor_sets=1)
    assert again["metrics"] == quick["metrics"]


def test_few_generated_cells_make_fewer_sets(real, made):
    again = evaluate(real, generated(real, sets=1), floor_sets=1)
    assert again["n_sets"]["generated"] == 1
    assert any("suffice for 1 of 3 sets" in note for note in again["notes"])
    few = made[made.obs["cell_type"] != "Dendritic"]
    few = ad.concat([few, made[made.obs["cell_type"] == "Dendritic"][:7]])
    few.obs_names_make_unique()
    again = evaluate(real, few, floor_sets=1)
    assert any("Dendritic (7 for 48)" in note for note in again["notes"])
    assert "1 of 10 types is thin: Dendritic (7 of 48 cells)." in again["verdict"][0]


def test_a_type_without_test_cells(real, made):
    split = real.obs["split"].astype(str).to_numpy()
    split[(real.obs["cell_type"] == "CD34+").to_numpy()] = "train"
    again = evaluate(change_obs(real, split=pd.Categorical(split)), made, floor_sets=1)
    assert any("No test cells" in note and "CD34+" in note for note in again["notes"])


def test_the_control_and_the_paper_protocol(real, made):
    again = evaluate(real, made, protocol="paper", control=True, sets=2, floor_sets=2)
    assert again["n_sets"]["control"] == 2
    assert again["metrics"]["correlation_error"]["control"]["mean"] == pytest.approx(1, abs=0.2)
    assert again["metrics"]["w2"]["generated"]["sd_types"] > again["metrics"]["w2"]["generated"]["sd"]


def test_the_seed_decides(real, made, quick):
    other = evaluate(real, made, sets=1, floor_sets=1, seed=1)
    assert other["metrics"]["w2"]["floor"] != quick["metrics"]["w2"]["floor"]


GENES = [f"G{i}" for i in range(765)]
MISTAKES = {
    "a missing gene": (
        lambda real, made: (real, made[:, 3:].copy(), {}),
        "generated set 1: its 762 genes are not the real cells' 765: 3 missing (",
    ),
    "other genes": (
        lambda real, made: (real, ad.AnnData(made.X, made.obs, pd.DataFrame(index=GENES)), {}),
        "765 unknown (G0, G1, G2, ...)",
    ),
    "a gene twice": (
        lambda real, made: (real, ad.AnnData(made.X, made.obs, pd.DataFrame(index=["A", *GENES[2:], "A"])), {}),
        "gene 'A' occurs more than once; expected unique gene names",
    ),
    "no such label": (
        lambda real, made: (real, made, {"label": "cell_typ"}),
        "no obs column 'cell_typ', did you mean 'cell_type'?",
    ),
    "no such label column": (
        lambda real, made: (change_obs(real, cell_type=None), made, {"label": "cell_type"}),
        "real: no obs column 'cell_type', valid: split",
    ),
    "two label columns": (
        lambda real, made: (change_obs(real, cell_type=None, **dict.fromkeys("ab", real.obs["cell_type"])), made, {}),
        "real: has the label columns a, b; name the one",
    ),
    "all labels missing": (
        lambda real, made: (change_obs(real, cell_type=[None] * real.n_obs), made, {"label": "cell_type"}),
        "real: no cell has a value in obs column 'cell_type'",
    ),
    "no type with test and training cells": (
        lambda real, made: (
            change_obs(real, cell_type=real.obs["split"]), change_obs(made, cell_type=["train"] * made.n_obs), {},
        ),
        "real: no type of 'cell_type' has test and training cells alike: there is no floor",
    ),
    "real cells that are all generated": (
        lambda real, made: (change_obs(real, is_generated=True), made, {}),
        "real: obs column 'is_generated' says that all cells are generated; expected real ones",
    ),
    "generated cells that are all real": (
        lambda real, made: (real, change_obs(made, is_generated=False), {}),
        "generated set 1: obs column 'is_generated' says that all cells are real; expected generated ones",
    ),
    "an unknown type": (
        lambda real, made: (real, change_obs(made, cell_type=["CD43+"] * made.n_obs), {}),
        "has 'CD43+', which no real cell has; did you mean 'CD34+'?",
    ),
    "no split": (
        lambda real, made: (change_obs(real, split=None), made, {}),
        "real: no obs column 'split'; expected one with train and test cells",
    ),
    "no test cells": (
        lambda real, made: (change_obs(real, split="train"), made, {}),
        "real: no test cells in obs column 'split' (found 700 train)",
    ),
    "nothing generated": (lambda real, made: (real, made[:0].copy(), {}), "generated set 1: no cells in it"),
    "normalised values": (
        lambda real, made: (real, ad.AnnData(made.X * 0.5, made.obs, made.var), {}),
        "generated set 1: counts hold 0.5; expected whole numbers, not normalised values",
    ),
    "NaN in real": (
        lambda real, made: (ad.AnnData(real.X * np.nan, real.obs, real.var), made, {}),
        "real: counts hold NaN or infinite values",
    ),
    "infinite": (
        lambda real, made: (real, ad.AnnData(made.X * np.inf, made.obs, made.var), {}),
        "generated set 1: counts hold NaN or infinite values",
    ),
    "a seed below zero": (lambda real, made: (real, made, {"seed": -1}), "seed is -1, expected a whole number from 0"),
    "an unknown protocol": (
        lambda real, made: (real, made, {"protocol": "papr"}),
        "`protocol`: unknown 'papr', did you mean 'paper'?",
    ),
    "no cells in a shard": (lambda real, made: (real, made, {"shard_size": 0}), "`shard_size`: 0, expected 1 or more"),
    "one test cell": (
        lambda real, made: (change_obs(real, split=["test"] + ["train"] * (real.n_obs - 1)), made, {}),
        "real: 1 test cells found, expected at least 2",
    ),
    "memory and Ray": (
        lambda real, made: (real, made, {"ray": "local"}),
        "`ray`: workers open the cells themselves; expected paths, not cells in memory",
    ),
    "no sets": (lambda real, made: (real, made, {"sets": 0}), "`sets`: 0, expected 1 or more"),
    "an unknown embedding": (lambda real, made: (real, made, {"embedding": "tsne"}), "`embedding`: unknown 'tsne'"),
    "no such run": (
        lambda real, made: (real, made, {"run": "nowhere"}),
        "nowhere/autoencoder/metrics.csv: no training log",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing(real, made, tmp_path, mistake):
    change, message = MISTAKES[mistake]
    one, other, options = change(real, made)
    with pytest.raises(BadInput) as caught:
        evaluate(one, other, tmp_path / "report", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_report_and_replaces_its_own(stores, tmp_path, capsys):
    out = tmp_path / "report"
    arguments = ["evaluate", str(stores / "real.zarr"), str(stores / "made.h5ad"), "--out", str(out)]
    arguments += ["--embedding", "pca", "--floor-sets", "1", "--sets", "1"]
    assert main(arguments) == 0
    assert f"Of {len(metrics_of())} measures" in capsys.readouterr().out
    names = {"cells", "mean_variance", "dropout", "zeros", "size_factors", "types"}
    expected = {"metrics.json", "report.html", *(f"{name}.png" for name in names)}
    assert {path.name for path in out.iterdir()} == expected
    first = json.loads((out / "metrics.json").read_text())
    assert main([*arguments, "--seed", "5"]) == 0
    second = json.loads((out / "metrics.json").read_text())
    assert (first["seed"], second["seed"]) == (0, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda out: (out.mkdir(), (out / "thesis.docx").touch()),
            "holds 'thesis.docx'; expected a new folder, or that of",
        ),
        (lambda out: out.touch(), "a file; expected a folder"),
    ],
)
def test_the_command_touches_nothing_that_is_not_its_own(stores, tmp_path, capsys, prepare, message):
    out = tmp_path / "report"
    prepare(out)
    before = sorted(tmp_path.rglob("*"))
    assert main(["evaluate", str(stores / "real.zarr"), str(stores / "made.h5ad"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_refuses_what_is_not_there(stores, tmp_path, capsys):
    real, made = str(stores / "real.zarr"), str(stores / "made.h5ad")
    assert main(["evaluate", str(tmp_path / "none.zarr"), made, "--out", str(tmp_path / "a")]) == 2
    assert "none.zarr: no such file or folder" in capsys.readouterr().err
    assert main(["evaluate", real, made, "--out", str(tmp_path / "no" / "where")]) == 2
    assert f"its folder {tmp_path / 'no'} does not exist; make it first" in capsys.readouterr().err
    shutil.copytree(real, tmp_path / "cut.zarr")
    shutil.rmtree(tmp_path / "cut.zarr" / "obs")
    assert main(["evaluate", str(tmp_path / "cut.zarr"), made, "--out", str(tmp_path / "a")]) == 2
    assert "cut.zarr" in capsys.readouterr().err


def test_a_full_disk_leaves_the_earlier_report_as_it_was(real, made, tmp_path):
    out = tmp_path / "report"
    evaluate(real, made, out, sets=1, floor_sets=1, embedding="pca")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError):
            evaluate(real, made, out, sets=1, floor_sets=1, embedding="pca", seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} <= {"report", "report.parts"}, "parts wait for --resume"


@pytest.mark.parametrize(
    ("better", "relative", "value", "floor", "sd", "verdict"),
    [
        ("lower", False, 1.05, 1.0, 0.1, "at"),  # within the spread
        ("lower", False, 0.5, 1.0, 0.0, "at"),  # better than the floor
        ("lower", False, 1.15, 1.0, 0.0, "near"),
        ("lower", False, 1.25, 1.0, 0.0, "off"),
        ("lower", True, 11.5, 10.0, 0.0, "near"),
        ("higher", False, 0.85, 1.0, 0.0, "near"),
        ("higher", False, 1.5, 1.0, 0.0, "at"),
        ("equal", False, 0.75, 0.9, 0.0, "near"),
        ("equal", False, 0.65, 0.9, 0.0, "off"),
        ("lower", False, float("nan"), 1.0, 0.0, "none"),
    ],
)
def test_judgement(better, relative, value, floor, sd, verdict):
    metric = Metric("x", DISTANCES, "X", "types", better, 0.2, "", relative)
    assert judge(metric, {"mean": value, "sd": sd}, {"mean": floor, "sd": sd}, real=0.9) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.93, "at"), (0.80, "near"), (1.05, "near"), (0.85, "at"), (0.7, "off"), (1.2, "off")]
)
def test_what_has_no_value_of_real_cells_is_best_at_the_floor(value, verdict):
    metric = Metric("x", DISTANCES, "X", "types", "equal", 0.2, "")
    assert judge(metric, {"mean": value, "sd": 0.0}, {"mean": 0.94, "sd": 0.0}) == verdict


def test_numbers_in_words():
    found = [number(x) for x in (None, float("nan"), 0.0, 0.00213, 0.0123, 1.0, 9.347, 21.51, 321.9, -0.5)]
    assert found == ["-", "-", "0", "0.0021", "0.0123", "1.00", "9.35", "21.5", "322", "-0.500"]


def test_an_atlas_is_not_compared_with_itself(tiny_atlas):
    with pytest.raises(BadInput, match="these are the real cells themselves; expected generated ones"):
        evaluate(tiny_atlas, tiny_atlas, label="cell_type")
