"""The suite of wrong sets: its tolerances and tables, and its main rows on real cells."""

import importlib

import pytest

from cfgen_dist.evaluation.metrics.catalogue import METRICS

# Measures that see each fault at this strength on PBMC3K. docs/evaluation.md has all of them.
SEEN = {
    ("dropped", 0.2): {"composition", "w2", "fold_slope", "recall"},
    ("largest", 1): {"composition", "w2", "knn_f1", "fold_slope", "mmd_all", "recall"},
    ("recomposed", 1): {"composition"},
    ("ambient", 0.3): {"mmd_rbf", "fold_slope", "auc_genes", "auc_pcs", "auc_linear", "genes_at_depth"},
    ("shuffled", 1): {"auc_genes", "auc_pcs", "correlation_error", "recall"},
    ("deeper", 1): {"size_factor"},
    ("dispersed", 0.5): {"auc_genes", "auc_linear", "zeros", "genes_at_depth", "mean_variance"},
    ("starved", 0.2): {"rare_genes", "abundance", "auc_linear"},
    ("exaggerated", 0.25): {"fold_slope"},
    ("averaged", 1): {"auc_genes", "auc_linear", "correlation_error", "recall", "mean_variance"},
}


@pytest.fixture
def sensitivity(pytestconfig, monkeypatch):
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    return importlib.import_module("sensitivity")


def row(fault, strength, **values):
    """A row with values of a few measures, whose floor is 1 with a spread of 0.01."""
    floor = {"mean": 1.0, "sd": 0.01}
    found = {
        key: {"generated": {"mean": value, "sd": 0.0}, "floor": floor, "real": None, "lacks": False}
        for key, value in values.items()
    }
    return {"data": "PBMC3K", "seed": 0, "fault": fault, "strength": strength, "values": found}


def test_a_tolerance_is_twice_the_largest_excess_of_right_sets(sensitivity):
    rows = [row("none", 0, recall=0.97, fold_slope=1.02), row("none", 0, recall=1.2, fold_slope=0.987)]
    rows.append(row("ambient", 0.3, recall=0.1, fold_slope=0.1))
    found = sensitivity.tolerances(rows)
    assert found == {"recall": 0.06, "fold_slope": 0.04}
    assert sensitivity.left_out(rows, 2) == [1, 0], "0.03 is more than 0 and the spread; 0.02 is less than twice 0.013"
    assert [sensitivity.rounded_up(value) for value in (0.0, 0.1234, 12.01, 0.05)] == [0.0, 0.13, 13.0, 0.05]


def test_the_table_has_the_smallest_strength_that_is_seen_on_all_data(sensitivity):
    rows = [row("ambient", strength, recall=1 - 2 * strength, w2=1.0) for strength in (0.05, 0.1, 0.3)]
    lines = sensitivity.table(rows).splitlines()
    assert lines[0] == "| measure | ambient counts |"
    tolerance = next(metric.near for metric in METRICS if metric.key == "recall")
    first = next(strength for strength in (0.05, 0.1, 0.3) if 2 * strength > tolerance)
    assert f"| `recall` | {first:g} |" in lines
    assert "| `w2` |  |" in lines
    others = [row("ambient", strength, recall=1.0, w2=5.0) | {"data": "Baron"} for strength in (0.05, 0.1, 0.3)]
    lines = sensitivity.table([*rows, *others]).splitlines()
    assert f"| `recall` | ({first:g}) |" in lines, "in brackets: on some data only"
    assert "| `w2` | (0.05) |" in lines


def test_every_fault_has_strengths_that_grow(sensitivity):
    assert all(list(fault.strengths) == sorted(fault.strengths) for fault in sensitivity.FAULTS)
    assert len({fault.key for fault in sensitivity.FAULTS}) == len(sensitivity.FAULTS)


@pytest.mark.heavy
@pytest.mark.slow
def test_the_main_rows_on_real_cells(sensitivity, real_data):
    cells = sensitivity.load(real_data, sensitivity.SETS["PBMC3K"])
    test, train, halves = sensitivity.split(cells, 0)
    faults = {fault.key: fault for fault in sensitivity.FAULTS}
    sets = {("none", 0): [sensitivity.as_anndata(half) for half in halves]}
    sets |= {(key, strength): sensitivity.make(faults[key], strength, halves, train, 0) for key, strength in SEEN}
    found = sensitivity.score(sensitivity.real_cells(test, train), sets)
    verdicts = {name: sensitivity.verdicts({"fault": name[0], "values": values}) for name, values in found.items()}
    off = {name: {key for key, word in each.items() if word == "off"} for name, each in verdicts.items()}
    assert off["none", 0] == set(), "fresh real cells are not off anywhere"
    for name, keys in SEEN.items():
        assert keys <= off[name], name
