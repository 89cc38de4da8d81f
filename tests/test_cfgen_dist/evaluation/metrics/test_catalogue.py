"""The catalogue: what is in it is measured and reported, and nothing else has to know."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_data import generated, pbmc68k

from cfgen_dist.evaluation import Reference, evaluate, stages
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.metrics.catalogue import METRICS
from cfgen_dist.evaluation.metrics.metric import Metric, Scorer
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy

OPTIONS = {"sets": 1, "floor_sets": 1, "embedding": "pca", "workers": 1}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr("cfgen_dist.evaluation.metrics.structure.TREES", 2)


def spread_gap(real, scored, rng):
    """How much wider or narrower the generated cells of a type lie than its real cells."""
    rng.random()  # its draws are its own
    return abs(float(scored.points[:].std(axis=0).sum() - real.points[:].std(axis=0).sum()))


def most_counts(real, generated):
    """The largest size factor."""
    return float(generated.totals[0].max())


SPREAD = Metric(
    "spread", Scorer(spread_gap, "points"), "Spread of a type", "types", "lower", 0.1, "Width of the cloud of a type.",
    value="spread_gap", mean_of_types=True, in_types_table=True,
)  # fmt: skip
MOST = Metric(
    "most", Scorer(most_counts, "profile"), "Most counts", "counts", "equal", 10.0, "Counts of the deepest cell.",
    value="most_counts",
)  # fmt: skip


def test_names_are_unique_and_groups_are_known():
    assert len({metric.key for metric in METRICS}) == len(METRICS)
    assert {metric.group for metric in METRICS} == set(catalogue.GROUPS) == set(catalogue.QUESTIONS)
    scorers = {metric.scorer for metric in METRICS}
    assert len({scorer.name for scorer in scorers}) == len(scorers), "parts and draws go by the name of the function"


def test_a_row_is_all_that_a_new_metric_needs(tmp_path, monkeypatch):
    real = pbmc68k()
    made = generated(real, sets=1)
    before = evaluate(real, made, **OPTIONS)
    monkeypatch.setattr(catalogue, "METRICS", (*METRICS, SPREAD, MOST))
    evaluate(real, made, tmp_path / "report", **OPTIONS)
    result = json.loads((tmp_path / "report" / "metrics.json").read_text())
    page = (tmp_path / "report" / "report.html").read_text()
    for metric in (SPREAD, MOST):
        assert result["metrics"][metric.key]["verdict"] in ("at", "near", "off")
        assert metric.title in page
        assert metric.meaning in page
    by_type = [row["generated"]["spread_gap"] for row in result["types"]]
    assert result["metrics"]["spread"]["generated"]["mean"] == pytest.approx(np.mean(by_type))
    assert page.count("Spread of a type") >= 2, "in the table of types too"
    test = real[real.obs["split"] == "test"]
    assert result["metrics"]["most"]["real"] == test.X.sum(axis=1).max()
    assert {key: row for key, row in result["metrics"].items() if key in before["metrics"]} == before["metrics"], (
        "a new metric changes no other"
    )
    score = Reference.fit(test.X, test.obs["cell_type"]).score(made.X, made.obs["cell_type"], structure=False)
    assert score["spread"] == pytest.approx(result["metrics"]["spread"]["generated"]["mean"])


def test_another_catalogue_makes_parts_and_reports_invalid(tmp_path, monkeypatch):
    real, out = tmp_path / "real.h5ad", tmp_path / "report"
    cells = pbmc68k()
    cells.write_h5ad(real)
    generated(cells, sets=1).write_h5ad(tmp_path / "made.h5ad")

    def stop(work, item):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "do_item", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(real, tmp_path / "made.h5ad", out, **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "METRICS", (*METRICS, SPREAD))
        with pytest.raises(BadInput, match="holds shards of another evaluation"):
            evaluate(real, tmp_path / "made.h5ad", out, resume=True, **OPTIONS)
    evaluate(real, tmp_path / "made.h5ad", out, resume=True, **OPTIONS)
    monkeypatch.setattr(catalogue, "METRICS", (*METRICS, SPREAD))
    again = evaluate(real, tmp_path / "made.h5ad", out, resume=True, **OPTIONS)
    assert "spread" in again["metrics"], "a finished report of another catalogue is not taken for its own"


def test_the_digest_knows_every_row(monkeypatch):
    before = catalogue.digest()
    assert catalogue.digest() == before
    first, *rest = METRICS
    for changed in (replace(first, near=0.06), replace(first, scorer=replace(first.scorer, paper=None))):
        monkeypatch.setattr(catalogue, "METRICS", (changed, *rest))
        assert catalogue.digest() != before
