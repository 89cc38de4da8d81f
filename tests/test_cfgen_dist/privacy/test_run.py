"""`audit` and its command: planted leaks are found, honest cells are at chance, mistakes are answered in one line."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from audit_data import N_DONORS, atlas, drawn, leaked, with_held_out_donors

from cfgen_dist import audit, evaluate
from cfgen_dist.cli import main
from cfgen_dist.privacy import planted, scan
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy
CELL_MEASURES = ("nearest_is_training", "distance", "gan_leaks", "domias", "overlap")


@pytest.fixture(scope="module", autouse=True)
def fewer_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "DRAWS", 3)
        yield


@pytest.fixture(scope="module")
def real():
    return atlas()


@pytest.fixture(scope="module")
def honest():
    return drawn(500, 2)


@pytest.fixture(scope="module")
def result(real, honest):
    return audit(real, honest)


def without_time(result):
    return {name: value for name, value in result.items() if name not in ("seconds", "settings", "provenance")}


def test_honest_cells_betray_nothing(result):
    assert result["verdict"][0].startswith("Nothing betrays the training data: 0 of 500 cells are exact copies")
    for name in CELL_MEASURES:
        row = result["generated"][name]
        assert row["low"] <= 0.5 <= row["high"], name
        assert row["verdict"] == "chance"
        assert result["check"][name]["value"] == pytest.approx(0.5, abs=0.03)
        assert result["floor"][name]["low"] <= 0.5 <= result["floor"][name]["high"]
    assert result["generated"]["near_copies"]["p"] > 0.01
    json.dumps(result, allow_nan=False)


def test_members_and_held_out_cells_are_as_many(result, real):
    assert result["cells"]["members"] == result["cells"]["held_out"]
    splits = real.obs["split"].value_counts()
    assert result["cells"]["members"] <= splits["test"]
    assert result["cells"]["members"] + result["cells"]["floor"] <= splits["train"] + splits["val"]


def test_planted_leaks_are_seen_in_every_audit(result):
    seen = {(row["kind"], row["share"]): row["seen"] for row in result["power"]}
    assert len(seen) == len(planted.KINDS) * len(planted.SHARES)
    for kind in ("copied", "noised"):
        assert seen[kind, 0.1]["near_copies"] == 1
    copied = next(row for row in result["power"] if (row["kind"], row["share"]) == ("copied", 0.02))
    assert copied["exact_copies"] == copied["cells"]
    assert "smallest planted leaks" in result["verdict"][-1]


@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_leaks_are_found(real, honest, kept):
    found = audit(real, leaked(real, honest, 0.1, kept))
    assert found["verdict"][0].startswith("Generated cells betray training cells")
    assert found["generated"]["near_copies"]["p"] < 0.01
    assert found["generated"]["near_copies"]["verdict"] == "above"
    assert bool(found["warnings"]) == (kept == 1.0)
    if kept == 1.0:
        assert found["copies"]["of"]["train"] == int(0.1 * (real.obs["split"] == "train").sum())
    stronger = audit(real, leaked(real, honest, 0.6, kept))
    assert stronger["generated"]["distance"]["verdict"] == "above"
    assert stronger["generated"]["nearest_is_training"]["verdict"] == "above"


def test_donors_held_out_whole():
    real = with_held_out_donors()
    found = audit(real, drawn(500, 3, donors=np.arange(N_DONORS - 4)), by="donor")
    assert found["cells"]["donors"] == {"training": 8, "held_out": 4}
    assert {name for name in found["generated"] if name.startswith("donors.")} == {
        "donors.distance", "donors.gan_leaks", "donors.domias", "donors.overlap"
    }  # fmt: skip
    assert not any(row["verdict"] == "above" for row in found["generated"].values())
    assert any("Only 4 values of donor on one side" in note for note in found["notes"])
    assert "Attacks on donor, 8 of training against 4 held out" in " ".join(found["verdict"])


def test_cells_of_strong_donors_betray_them():
    real = with_held_out_donors(strength=1.0)
    made = drawn(800, 3, donors=np.arange(N_DONORS - 4), strength=1.0)
    found = audit(real, made, by="donor")
    assert found["generated"]["donors.domias"]["value"] == 1
    assert found["generated"]["donors.domias"]["verdict"] == "above"
    assert "which donor was in training" in found["verdict"][0]
    for name in ("near_copies", *CELL_MEASURES):  # no cell was seen, and other real cells of the donors do as well
        assert found["generated"][name]["verdict"] != "above", name
    without = audit(real, made)
    assert any("Whole categories of donor were held out" in note for note in without["notes"])


def test_forms_of_the_same_cells_give_the_same(real, honest, result, tmp_path):
    real.write_zarr(tmp_path / "real.zarr")
    honest[:, ::-1].copy().write_h5ad(tmp_path / "honest.h5ad")
    again = audit(tmp_path / "real.zarr", tmp_path / "honest.h5ad")
    assert again["generated"] == result["generated"]
    mixed = ad.concat([real, honest])
    mixed.obs["is_generated"] = np.arange(mixed.n_obs) >= real.n_obs
    again = audit(real, mixed)
    assert again["generated"] == result["generated"]
    assert again["copies"]["n_copies"] == 0
    assert any("by its obs column 'is_generated'" in note for note in again["notes"])


def test_cells_without_types(real, honest):
    bare = honest.copy()
    del bare.obs["cell_type"]
    found = audit(real, bare, label="cell_type")
    assert found["generated"]["distance"]["verdict"] != "above"
    assert any("without looking at types" in warning for warning in found["warnings"])


def test_workers_and_interruptions_do_not_matter(real, honest, tmp_path, monkeypatch):
    real.write_zarr(tmp_path / "real.zarr")
    honest.write_h5ad(tmp_path / "honest.h5ad")
    paths = tmp_path / "real.zarr", tmp_path / "honest.h5ad"
    one = audit(*paths, tmp_path / "one", shard_size=90, workers=1)
    three = audit(*paths, tmp_path / "three", shard_size=90, workers=3)
    assert without_time(one) == without_time(three)
    do_item, done = scan.do_item, []

    def dies(work, item):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(item)
        do_item(work, item)

    monkeypatch.setattr(scan, "do_item", dies)
    with pytest.raises(KeyboardInterrupt):
        audit(*paths, tmp_path / "again", shard_size=90, workers=1)
    with pytest.raises(BadInput, match="interrupted audit"):
        audit(*paths, tmp_path / "again", shard_size=90)
    with pytest.raises(BadInput, match="another audit"):
        audit(*paths, tmp_path / "again", shard_size=80, resume=True)
    redone = []
    monkeypatch.setattr(scan, "do_item", lambda work, item: (redone.append(item), do_item(work, item)))
    resumed = audit(*paths, tmp_path / "again", shard_size=90, resume=True)
    assert without_time(resumed) == without_time(one)
    assert not set(redone) & set(done)
    assert not (tmp_path / "again.parts").exists()
    redone.clear()
    assert audit(*paths, tmp_path / "again", shard_size=90, resume=True) == resumed
    assert not redone


def test_the_command(real, honest, tmp_path, capsys):
    real.write_zarr(tmp_path / "real.zarr")
    honest.write_h5ad(tmp_path / "honest.h5ad")
    out = tmp_path / "audit"
    assert main(["audit", str(tmp_path / "real.zarr"), str(tmp_path / "honest.h5ad"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Nothing betrays the training data" in printed
    assert f"Report: {out / 'audit.html'}" in printed
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "audit.json", "audit.png"]
    page = (out / "audit.html").read_text()
    assert "Planted leaks" in page
    assert json.loads((out / "audit.json").read_text())["verdict"][0] in page.replace("&#39;", "'")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    with pytest.raises(BadInput, match=r"holds .thesis.txt.; expected a new folder, or that of an earlier audit"):
        audit(tmp_path / "real.zarr", tmp_path / "honest.h5ad", tmp_path / "full")


def change_obs(cells, **columns):
    cells = cells.copy()
    for name, values in columns.items():
        cells.obs[name] = values
    return cells


MISTAKES = {
    "no test cells": (
        lambda real, made: (change_obs(real, split="train"), made, {}),
        "real: no test cells in obs column 'split' (found 1000 train)",
    ),
    "no split": (
        lambda real, made: (ad.AnnData(real.X, real.obs[["cell_type"]], real.var), made, {}),
        "real: no obs column 'split'; expected one with train and test cells",
    ),
    "other genes": (
        lambda real, made: (real, ad.AnnData(made.X, made.obs, pd.DataFrame(index=[f"h{i}" for i in range(120)])), {}),
        "generated set 1: its 120 genes are not the real cells' 120: 120 missing (",
    ),
    "too few generated cells": (
        lambda real, made: (real, made[:7].copy(), {}),
        "generated set 1: 7 generated cells; expected at least 20",
    ),
    "too few of the same type": (
        lambda real, made: (
            change_obs(real, split=np.where(np.arange(1000) < 9, "test", "train").astype(str)), made, {}
        ),
        "real: 9 pairs of a training and a test cell of the same type; expected at least 20",
    ),
    "donors not held out": (
        lambda real, made: (real, made, {"by": "donor"}),
        "test cells; expected `by` to be a column held out whole, as by `ingest(SRC, OUT, holdout='donor=0.2')`",
    ),
    "no such donors": (
        lambda real, made: (real, made, {"by": "doner"}),
        "real: no obs column 'doner' for `by`; did you mean 'donor'?",
    ),
    "one donor": (
        lambda real, made: (
            change_obs(real, site=pd.Categorical(np.where(real.obs["split"] == "test", "x", "y"))), made,
            {"by": "site"},
        ),
        "real: 1 of site with training cells; expected at least 2 for `by`",
    ),
    "no counts": (
        lambda real, made: (real, ad.AnnData(made.X * 0.3, made.obs, made.var), {}),
        "expected whole numbers, not normalised values",
    ),
    "few cells": (lambda real, made: (real, made, {"cells": 3}), "`cells`: 3, expected 20 or more"),
    "no shards": (lambda real, made: (real, made, {"shard_size": 0}), "`shard_size`: 0, expected 1 or more"),
    "memory and Ray": (
        lambda real, made: (real, made, {"ray": "local"}),
        "`ray`: workers open the cells themselves; expected paths, not cells in memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_answered_in_one_line(real, honest, name):
    change, message = MISTAKES[name]
    first, second, options = change(real, honest)
    with pytest.raises(BadInput) as caught:
        audit(first, second, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_of_the_cells(real, honest):
    found = audit(real, honest, cells=60)
    assert 50 <= found["cells"]["members"] <= 60
    assert found["cells"]["generated"] == 500


@pytest.mark.slow
def test_ray_gives_the_same(real, honest, tmp_path, ray_local):
    real.write_zarr(tmp_path / "real.zarr")
    honest.write_h5ad(tmp_path / "honest.h5ad")
    paths = tmp_path / "real.zarr", tmp_path / "honest.h5ad"
    threads = audit(*paths, tmp_path / "threads", shard_size=200)
    actors = audit(*paths, tmp_path / "actors", shard_size=200, ray="auto", workers=2)
    assert without_time(actors) == without_time(threads)


def test_a_section_of_the_report(real, honest, tmp_path):
    """`evaluate(audit=)` shows an audit of the same cells, and refuses one of others, or none."""
    real.copy().write_h5ad(tmp_path / "real.h5ad")
    honest.copy().write_h5ad(tmp_path / "honest.h5ad")
    drawn(500, 7).write_h5ad(tmp_path / "other.h5ad")
    places = (tmp_path / "real.h5ad", tmp_path / "honest.h5ad")
    audited = audit(*places, tmp_path / "audit")
    options = {"sets": 1, "floor_sets": 2, "embedding": "pca"}
    found = evaluate(*places, tmp_path / "report", audit=tmp_path / "audit", **options)
    assert found["audit"]["verdict"] == audited["verdict"]
    titles = [row["title"] for row in audited["generated"].values()]
    assert [row["title"] for row in found["audit"]["measures"]] == titles
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Is it safe to give away?" in page
    assert "Not audited" not in page
    assert all(title in page for title in titles)
    with pytest.raises(BadInput, match="the audit of other generated cells"):
        evaluate(places[0], tmp_path / "other.h5ad", audit=tmp_path / "audit", **options)
    with pytest.raises(BadInput, match="in it; expected the folder of an audit, made by `audit"):
        evaluate(*places, audit=tmp_path, **options)
    evaluate(*places, tmp_path / "report", **options)
    assert "Not audited" in (tmp_path / "report" / "report.html").read_text()


def test_an_audit_in_a_bucket(real, honest, bucket, tmp_path, capsys):
    """Stores, parts and report are there; an evaluation finds the audit there too."""
    for name, cells in (("real", real), ("made", honest)):
        cells.write_zarr(tmp_path / f"{name}.zarr")
        bucket.put_folder(f"{name}.zarr", tmp_path / f"{name}.zarr")
    here = audit(tmp_path / "real.zarr", tmp_path / "made.zarr", tmp_path / "report", cells=200)
    stores, out = (f"{bucket.url}/real.zarr", f"{bucket.url}/made.zarr"), f"{bucket.url}/report"
    assert main(["audit", *stores, "--out", out, "--cells", "200"]) == 0
    assert f"Report: {out}/audit.html" in capsys.readouterr().out
    assert bucket.keys("report") == ["report/audit.html", "report/audit.json", "report/audit.png"]
    found = json.loads(bucket.read("report/audit.json"))
    for name in ("generated", "floor", "check", "power", "cells"):
        assert found[name] == here[name], name
    again = audit(*stores, out, cells=200, resume=True)
    assert again["seconds"] == found["seconds"], "nothing to do"
    with pytest.raises(BadInput, match=rf"{out}/none: no audit.json in it; expected the folder of an audit"):
        evaluate(*stores, audit=f"{out}/none")
