"""The table of quality: what is finished is kept, and the table is made of it."""

import importlib
import json
import sys

import anndata as ad
import pytest

from data_loaders import simulate


@pytest.fixture
def quality(pytestconfig, monkeypatch):
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    return importlib.import_module("quality")


def write(quality, work, data, seed, method, **values):
    """The JSON of a method, as a run leaves it."""
    folder = work / f"{data.replace(' ', '-')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    found = {"data": data, "seed": seed, "method": method, "date": "2026-11-27", "machine": {"processor": "a core"}}
    found |= {"cells": 2000, "genes": 900 + seed, "types": 8, "quick": False}
    found["sets"] = [dict.fromkeys(quality.COLUMNS, 1.0) | values]
    (folder / f"{method}.json").write_text(json.dumps(found))


def test_a_table_has_means_over_the_splits_and_compares_on_the_same_ones(quality, tmp_path):
    for seed in (0, 1):
        write(quality, tmp_path, "PBMC3K", seed, "floor", w2=9.0 + seed, nll=None)
        write(quality, tmp_path, "PBMC3K", seed, "ours", w2=10.0 + seed)
    write(quality, tmp_path, "PBMC3K", 0, "scvi", w2=11.0, nll=None)
    write(quality, tmp_path, "worm embryo", 0, "floor", w2=3.0)
    lines = quality.tables(quality.collected(tmp_path)).splitlines()
    assert lines[0].startswith("| data | cells | W2 | linear MMD |")
    found = [line.split(" | ")[:3] for line in lines if line.startswith(("| PBMC3K", "| worm"))]
    assert found == [
        ["| PBMC3K, split 0, 1", "real training cells (the floor)", "9.50"],
        ["| PBMC3K, split 0, 1", "**cfgen-dist**", "10.50"],
        ["| PBMC3K, split 0", "real training cells (the floor)", "9.00"],
        ["| PBMC3K, split 0", "**cfgen-dist**", "10.00"],
        ["| PBMC3K, split 0", "scVI", "11.00"],
        ["| worm embryo", "real training cells (the floor)", "3.00"],
    ]
    assert "PBMC3K: 2,000 cells, 900 to 901 genes, 8 types; 2026-11-27, a core" in lines


@pytest.mark.heavy
def test_what_is_measured_is_kept(quality, tmp_path, monkeypatch, capsys):
    simulate(tmp_path / "cells.zarr", cells=400, genes=120, types=3, seed=0)
    cells = ad.read_zarr(tmp_path / "cells.zarr")
    ad.AnnData(cells.X, cells.obs[["cell_type"]]).write_h5ad(tmp_path / "some.h5ad")
    command = ["quality.py", str(tmp_path / "some.h5ad"), "--quick", "--threads", "1", "--seeds", "0"]
    command += ["--work", str(tmp_path / "work"), "--methods"]
    monkeypatch.setattr(sys, "argv", [*command, "floor", "control"])
    quality.main()
    written = (tmp_path / "work/some-0/floor.json").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [*command, "floor", "ours"])
    quality.main()
    assert (tmp_path / "work/some-0/floor.json").stat().st_mtime_ns == written
    last = capsys.readouterr().out.split("| data |")[-1]
    assert [name in last for name in ("(the floor)", "**cfgen-dist**", "independently")] == [True] * 3
    found = json.loads((tmp_path / "work/some-0/ours.json").read_text())
    assert len(found["sets"]) == 3
    assert found["sets"][0]["nll"] > 0
    assert found["quick"]
