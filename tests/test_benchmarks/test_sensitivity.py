"""The suite of wrong sets: its tolerances and tables, and its main rows on real cells."""

import importlib
from argparse import Namespace

import anndata as ad
import pytest

from cfgen_dist.evaluation.metrics.catalogue import METRICS
from data_loaders import simulate

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


def test_the_table_names_a_measure_at_the_smallest_strength_that_is_seen_on_all_data(sensitivity):
    rows = [row("ambient", strength, recall=1 - 2 * strength, w2=1.0) for strength in (0.05, 0.1, 0.3)]
    tolerance = next(metric.near for metric in METRICS if metric.key == "recall")
    first = next(strength for strength in (0.05, 0.1, 0.3) if 2 * strength > tolerance)
    lines = sensitivity.first_seen(rows).splitlines()
    assert lines[0] == "| fault | strength | PBMC3K | Kang | Baron | off on all, from this strength on |"
    assert [line for line in lines if "`recall`" in line] == [f"| ambient counts | {first:g} | 1 |  |  | `recall` |"]
    others = [row("ambient", strength, recall=1.0, w2=5.0) | {"data": "Baron"} for strength in (0.05, 0.1, 0.3)]
    lines = sensitivity.first_seen([*rows, *others]).splitlines()
    assert f"| ambient counts | {first:g} | 1 |  | 1 |  |" in lines, "each on one of them, none on both"


@pytest.mark.heavy
def test_what_is_measured_is_kept(sensitivity, tmp_path):
    simulate(tmp_path / "cells.zarr", cells=400, genes=120, types=3, seed=0)
    cells = ad.read_zarr(tmp_path / "cells.zarr")
    ad.AnnData(cells.X, cells.obs[["cell_type"]]).write_h5ad(tmp_path / "pbmc3k.h5ad")
    args = Namespace(folder=tmp_path, work=tmp_path / "work", quick=True, faults=["shallower"])
    first = sensitivity.measured(args, "PBMC3K", 0)
    assert {(each["fault"], each["strength"]) for each in first} == {("none", 0), ("shallower", 0.25)}
    args.faults = ["shallower", "relabelled"]
    both = sensitivity.measured(args, "PBMC3K", 0)
    assert [each["fault"] for each in both].count("none") == 1
    assert {each["fault"] for each in both} == {"none", "shallower", "relabelled"}
    kept = {each["fault"]: each["values"] for each in both}
    assert kept["shallower"] == next(each["values"] for each in first if each["fault"] == "shallower")
    (tmp_path / "pbmc3k.h5ad").unlink()
    assert sensitivity.measured(args, "PBMC3K", 0) == both, "nothing is read again"


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
