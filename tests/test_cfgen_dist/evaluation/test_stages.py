"""Evaluation in shards: the same numbers however the work is cut, done and interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from evaluation_data import count_items, generated, same, with_split
from scipy import sparse

from cfgen_dist.evaluation import Reference, evaluate, stages
from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.sources import open_cells
from cfgen_dist.evaluation.summary import subsampled
from cfgen_dist.evaluation.workspace import Workspace
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

OPTIONS = {"sets": 2, "floor_sets": 1, "embedding": "pca", "seed": 3}


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """The forest is the slow part and the same as ever; other processes keep all trees, so theirs are not compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 5)
        yield


@pytest.fixture(scope="module")
def real():
    """600 cells x 2,100 genes: more than are used, so the genes are chosen as well."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(["B", "NK", "T"], 600, p=[0.3, 0.2, 0.5])
    profile = {kind: np.exp(rng.normal(-2.2, 1.3, 2100)) for kind in ["B", "NK", "T"]}
    mean = np.array([profile[kind] for kind in kinds]) * rng.gamma(5, 0.2, (600, 1))
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(2, mean / 2)).astype(np.int32))
    obs = pd.DataFrame({"cell_type": pd.Categorical(kinds)}, index=[f"c{i}" for i in range(600)])
    return with_split(ad.AnnData(counts, obs, pd.DataFrame(index=[f"g{i}" for i in range(2100)])))


@pytest.fixture(scope="module")
def made(real):
    return generated(real, sets=2)


@pytest.fixture(scope="module")
def stores(real, made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    real.write_h5ad(folder / "real.h5ad")
    made.write_h5ad(folder / "made.h5ad")
    return folder / "real.h5ad", folder / "made.h5ad"


@pytest.fixture(scope="module")
def whole(real, made):
    """One shard, cells in memory."""
    return evaluate(real, made, control=True, **OPTIONS)


def numbers(result):
    return {name: result[name] for name in ("metrics", "types", "sets", "verdict", "notes")}


def without_forests(result):
    """The values of all sets that no forest was asked for."""
    forests = ("auc_genes", "auc_pcs")
    return {
        kind: [{name: value for name, value in values.items() if name not in forests} for values in sets]
        for kind, sets in result["sets"].items()
    }


def test_shards_and_workers_change_nothing(stores, whole):
    again = evaluate(*stores, control=True, shard_size=37, workers=3, **OPTIONS)
    assert same(numbers(again), numbers(whole))


def test_an_evaluation_in_memory_is_that_of_one_shard(real, made, whole):
    """`Reference` and `evaluate` are the same code: a set scored by hand has the numbers of the report."""
    test = real[real.obs["split"] == "test"]
    reference = Reference.fit(test.X, test.obs["cell_type"], seed=OPTIONS["seed"])
    wanted = test.obs["cell_type"].value_counts().to_dict()
    one = with_only(made, wanted)
    by_hand = reference.score(one.X, one.obs["cell_type"])
    report = evaluate(real, one, **OPTIONS | {"sets": 1})
    assert same(by_hand, report["sets"]["generated"][0])


def with_only(cells, wanted):
    """The first so many cells of each type, in the order of the store."""
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    rows = np.concatenate([np.flatnonzero(labels == kind)[:n] for kind, n in wanted.items()])
    return cells[np.sort(rows)].copy()


@pytest.mark.slow  # most of it starts actors, of the pool that generation/test_workers.py uses too
def test_actors_change_nothing(ray_local, stores, whole, tmp_path):
    again = evaluate(*stores, tmp_path / "report", control=True, shard_size=60, ray="local", workers=2, **OPTIONS)
    assert same(without_forests(again), without_forests(whole))
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def interrupted(stores, out, monkeypatch, done):
    """An evaluation that ends after so many items."""
    items = []
    do_item = stages.do_item

    def stop(work, item):
        if len(items) == done:
            raise KeyboardInterrupt
        do_item(work, item)
        items.append(item)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "do_item", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*stores, out, shard_size=50, workers=1, **OPTIONS)
    return items


@pytest.mark.parametrize("done", [2, 14, 24])
def test_an_interrupted_evaluation_is_finished(stores, whole, tmp_path, monkeypatch, done):
    """Stopped while the space is fitted, while cells are read, while sets are scored."""
    out = tmp_path / "report"
    before = interrupted(stores, out, monkeypatch, done)
    with pytest.raises(BadInput, match=r"report.parts holds an interrupted evaluation: `resume=True`"):
        evaluate(*stores, out, shard_size=50, **OPTIONS)
    with pytest.raises(BadInput, match="holds shards of another evaluation, or of other cells: give the same"):
        evaluate(*stores, out, shard_size=50, resume=True, **OPTIONS | {"seed": 4})
    after = count_items(monkeypatch)
    result = evaluate(*stores, out, shard_size=50, resume=True, **OPTIONS)
    assert not set(before) & set(after)
    assert same(result["sets"]["generated"], whole["sets"]["generated"])
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    after.clear()
    assert evaluate(*stores, out, shard_size=50, resume=True, **OPTIONS) == json.loads(json.dumps(result))
    assert after == [], "a finished evaluation does nothing"


def test_changed_cells_are_not_taken_for_the_same(stores, tmp_path, monkeypatch):
    copies = [shutil.copy(path, tmp_path) for path in stores]
    interrupted(copies, tmp_path / "report", monkeypatch, 8)
    os.utime(copies[1], ns=(1, 1))
    with pytest.raises(BadInput, match="holds shards of another evaluation, or of other cells"):
        evaluate(*copies, tmp_path / "report", shard_size=50, resume=True, **OPTIONS)


def test_damaged_parts_are_made_again(stores, whole, tmp_path, monkeypatch):
    out = tmp_path / "report"
    interrupted(stores, out, monkeypatch, 14)
    parts = sorted((tmp_path / "report.parts").glob("scan-*.npz"))
    assert len(parts) >= 2
    parts[0].write_bytes(parts[0].read_bytes()[:-50])
    record = parts[1].with_suffix(".json")
    record.write_text(record.read_text().replace('"work": "', '"work": "0'))
    again = count_items(monkeypatch)
    result = evaluate(*stores, out, shard_size=50, resume=True, **OPTIONS)
    assert {parts[0].stem, parts[1].stem} <= set(map(stages.part_name, again))
    assert same(result["sets"]["generated"], whole["sets"]["generated"])


@pytest.mark.heavy
def test_a_killed_command_is_finished_by_resume(stores, whole, tmp_path):
    out = tmp_path / "report"
    command = [sys.executable, "-m", "cfgen_dist", "evaluate", *stores, "--out", out, "--embedding", "pca"]
    command += ["--sets", "2", "--floor-sets", "1", "--seed", "3", "--shard-size", "10", "--workers", "1"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    parts = tmp_path / "report.parts"
    while not list(parts.glob("scan-*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run([*map(str, command), "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "parts are there already" in done.stderr
    result = json.loads((out / "metrics.json").read_text())
    assert same(without_forests(result)["generated"], without_forests(whole)["generated"])
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_what_was_subsampled_is_said():
    cells = np.array([500, 3000, 1500])
    real = CellSet(np.repeat([0, 1, 2], cells), None, None, cells, None, None)
    notes = " ".join(subsampled(real, {0: 500, 1: 2900, 2: 1200}, np.array(["B", "NK", "T"])))
    assert "Transport was computed on 3 random subsamples of 1,000 cells a side: NK, T, all cells." in notes
    assert "RBF MMD was computed on 2,000 random cells a side: NK, all cells." in notes
    assert "density and coverage were computed on 2,000 random cells a side: all cells." in notes
    assert "Correlations were computed on 2,000 random cells a side: NK." in notes
    assert "The 10-NN classifier was asked about 2,000 random cells: NK." in notes
    assert "fitted on" not in notes


def test_components_stay_on_disk(stores, tmp_path):
    real = open_cells(stores[0])
    rows = {"test": real.rows_of("test")}
    plan = {"sets": {"test": 0}, "settings": "x", "protocol": "centred", "n_types": 3, "n_genes": 2100}
    work = Workspace.create(tmp_path, plan, [real], rows)

    def pool(function, items, setup):
        return [(item, function(setup(), item)) for item in items]

    stages.fit(work, pool, lambda: work, 50)
    stages.scan(work, pool, lambda: work, 50)
    cells = Workspace.open(tmp_path, [stores[0]], "cell_type").cell_set("test")
    assert isinstance(cells.pcs, np.memmap)
    np.testing.assert_allclose(cells.pcs.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(cells.mean(1), cells.pcs[cells.codes == 1].mean(axis=0))
    assert not list(tmp_path.glob("covariance-*")), "sums of shards are removed once they are merged"
