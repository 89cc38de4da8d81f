"""How far cells are from the floor, in one unit for all measures; and which of several settings is best by it."""

import math
from dataclasses import replace

import pytest

from cfgen_dist.evaluation.choice import Floor, Standing, keeps_structure, nearest_to_floor, title_of
from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.trade_off import columns_of, lines_of
from data_loaders.errors import BadInput

REAL = {"zeros": 0.9}
FLOOR = Floor.of(
    [
        {"w2": 9.0, "coverage": 0.95, "correlation_error": 0.0, "zeros": 0.901},
        {"w2": 9.4, "coverage": 0.97, "correlation_error": 0.04, "zeros": 0.899},
    ],
    REAL,
)


def standing(**scores):
    """Of two sets that differ a little."""
    values = {"w2": 9.2, "coverage": 0.96, "correlation_error": 0.02, "zeros": 0.9} | scores
    return Standing.of([values, {key: value * 1.001 for key, value in values.items()}], FLOOR)


def test_a_unit_is_the_spread_of_the_floor_or_a_tenth_of_the_tolerance():
    rows = {metric.key: metric for metric in catalogue.METRICS}
    assert FLOOR.unit(rows["w2"]) == pytest.approx(0.4 / math.sqrt(2)), "the standard deviation of two values"
    assert FLOOR.unit(rows["zeros"]) == pytest.approx(0.002 / math.sqrt(2))
    calm = Floor.of([{"w2": 10.0, "coverage": 0.9}] * 3, {})
    assert calm.unit(rows["coverage"]) == pytest.approx(rows["coverage"].near / 10)
    assert calm.unit(rows["w2"]) == pytest.approx(10 * rows["w2"].near / 10), "of W2 the tolerance is a share"


def test_distances_are_in_units_and_never_a_merit():
    unit = {metric.key: FLOOR.unit(metric) for metric in catalogue.METRICS if metric.key in FLOOR.mean}
    found = FLOOR.distances({"w2": 9.2 + 2 * unit["w2"], "coverage": 0.99, "correlation_error": 0.0, "zeros": 0.89})
    assert found["w2"] == pytest.approx(2)
    assert found["coverage"] == 0, "better than real cells"
    assert found["zeros"] == pytest.approx(0.01 / unit["zeros"]), "too few are as wrong as too many"
    assert FLOOR.distances({"zeros": 0.91})["zeros"] == pytest.approx(found["zeros"])
    assert FLOOR.distances({"w2": math.nan})["w2"] == math.inf, "what has no value cannot be best"


def test_a_measure_that_real_cells_lack_does_not_count():
    floor = Floor.of([{"w2": 9.0, "correlation_error": math.nan}] * 2, {})
    assert list(floor.distances({"w2": 9.0, "correlation_error": 1.0})) == ["w2"]
    with pytest.raises(BadInput, match="no measure of the real cells is a number"):
        Floor.of([{"w2": math.nan}], {})


def test_a_new_row_of_the_catalogue_counts_by_itself(monkeypatch):
    new = replace(catalogue.METRICS[0], key="fold_slope", title="Fold-change slope", better="equal", near=0.1)
    monkeypatch.setattr(catalogue, "METRICS", (*catalogue.METRICS, replace(new, relative=False)))
    floor = Floor.of([{"w2": 9.0, "fold_slope": 0.95}] * 2, {})
    found = Standing.of([{"w2": 9.0, "fold_slope": 0.55}], floor)
    assert (found.worst_measure, found.worst) == ("fold_slope", pytest.approx(40))
    assert floor.distances({"w2": 9.0, "fold_slope": 1.05})["fold_slope"] == pytest.approx(10), "equal to the floor"
    setting = {"measures": {"w2": 9.0, "fold_slope": 0.55}, "distances": found.distances, "worst": found.worst}
    setting |= {"worst_measure": found.worst_measure, "average": found.average}
    assert lines_of([setting])[-1] == ("Fold-change slope", ["0.550 (40.0)"], [True])
    assert columns_of(setting)["fold_slope_distance"] == pytest.approx(40)


def test_shorter_distances_do_not_pay_for_lost_structure():
    """As on PBMC3K: W2 is shorter with guidance 2, correlations are as if genes were independent."""
    faithful = standing(w2=9.9, correlation_error=0.48)
    guided = standing(w2=8.6, correlation_error=1.10)
    assert guided.worst_measure == "correlation_error"
    assert nearest_to_floor([faithful, guided]) == [0]
    assert not keeps_structure({"correlation_error": 1.10}, {"correlation_error": 0.48})


def test_equals_are_told_apart_by_the_mean():
    same = standing(correlation_error=0.5)
    better = standing(correlation_error=0.5, w2=9.0)
    worse = standing(correlation_error=0.5, w2=10.5)
    assert nearest_to_floor([worse, same, better]) == [1, 2]
    assert nearest_to_floor([worse]) == [0]


def test_what_a_choice_may_cost_of_structure():
    faithful = {"correlation_error": 0.2, "coverage": 0.95}
    assert keeps_structure({"correlation_error": 0.249, "coverage": 0.931}, faithful)
    assert not keeps_structure({"correlation_error": 0.251, "coverage": 0.95}, faithful)
    assert not keeps_structure({"correlation_error": 0.2, "coverage": 0.929}, faithful)
    assert keeps_structure({"coverage": math.nan}, faithful), "not measured decides nothing"
    assert title_of("correlation_error") == "Gene-gene correlation error"
