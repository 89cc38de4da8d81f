"""A search: what it leaves, what it survives, what it refuses.

Searches run on Ray, so whatever asks a whole search is slow; one test asks Ray only what room it has.
"""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY

from cfgen_dist import tune
from cfgen_dist.cli import main
from cfgen_dist.config import load_config, to_dict
from cfgen_dist.training.folder import RunFolder
from cfgen_dist.tuning.distributions import Choice, Range
from cfgen_dist.tuning.guidance import choose
from cfgen_dist.tuning.plots import importances
from cfgen_dist.tuning.run import _check_directory, _room
from cfgen_dist.tuning.space import load_space
from cfgen_dist.tuning.strategies import Halving, Suggest
from cfgen_dist.tuning.trial import RESULT, Diverged, ReportLikelihood, ReportSamples, finish, read_reports, work
from cfgen_dist.tuning.trials import best_trial, new_trial, read_trials
from data_loaders import open_atlas
from data_loaders.errors import BadInput

SPACE = {
    "autoencoder": {"lr": {"loguniform": [1e-4, 1e-2]}, "hidden": {"choice": [[16, 8], [32, 16]]}},
    "flow": {"lr": {"loguniform": [1e-4, 1e-2]}, "max_steps": {"times": [0.5, 1]}},
    "sampling": {"guidance": {"choice": [1, 2]}, "steps": {"choice": [3]}},
}


@pytest.fixture(scope="module")
def killed_and_resumed(ray_local, tiny_atlas, tmp_path_factory):
    """A search whose driver is killed with SIGKILL once two trials are done, then resumed with one that diverges."""
    import yaml

    folder = tmp_path_factory.mktemp("search")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    out = folder / "run"
    settings = [word for key, value in TINY.items() for word in (f"--{key}", str(value).strip("[]").replace(" ", ""))]
    command = [
        sys.executable,
        "-m",
        "cfgen_dist",
        "tune",
        str(tiny_atlas),
        "--out",
        str(out),
        "--trials",
        "9",
        *settings,
    ]
    command += ["--space", str(folder / "space.yaml"), "--ray", "local", "--concurrent", "2"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    until = time.monotonic() + 400
    try:
        while len(list(out.glob("autoencoder/*/result.json"))) < 2:
            assert driver.poll() is None, driver.stderr.read()
            assert time.monotonic() < until, "two trials have not finished in 400 seconds"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    time.sleep(2)  # its Ray dies with it
    before = {record["number"]: record for record in read_trials(out / "autoencoder")}
    files = {path: path.stat().st_mtime_ns for path in out.glob(f"autoencoder/*/{RESULT}")}
    assert len(before) < 5, "two done and two in work: there is room for one"
    bound_to_fail = {"autoencoder.lr": 1e30, "autoencoder.hidden": [16, 8]}
    new_trial(out / "autoencoder", len(before), bound_to_fail)
    config = load_config(overrides=TINY)
    best = tune(tiny_atlas, out, 9, config=config, space=folder / "space.yaml", ray="local", concurrent=2, resume=True)
    return {"out": out, "before": before, "files": files, "best": best, "space": folder / "space.yaml"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_trial_is_lost_or_done_twice(killed_and_resumed):
    out, before = killed_and_resumed["out"], killed_and_resumed["before"]
    after = read_trials(out / "autoencoder")
    assert [record["number"] for record in after] == [0, 1, 2, 3, 4]
    assert all(record["status"] != "unfinished" for record in after)
    done = [number for number, record in before.items() if record["status"] != "unfinished"]
    assert len(done) >= 2
    for number, record in before.items():
        assert after[number]["values"] == record["values"], "unfinished ones go on as they were"
        assert after[number]["started"] == record["started"]
    for path, written in killed_and_resumed["files"].items():
        assert path.stat().st_mtime_ns == written
    assert len(read_trials(out / "flow")) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_diverging_trial_is_recorded_and_the_search_goes_on(killed_and_resumed):
    records = read_trials(killed_and_resumed["out"] / "autoencoder")
    failed = [record for record in records if record["status"] == "failed"]
    assert [record["values"]["autoencoder.lr"] for record in failed] == [1e30]
    assert failed[0]["why"].startswith("diverged: the objective is")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_base_comes_first_and_is_never_undercut(killed_and_resumed):
    out = killed_and_resumed["out"]
    base = load_config(overrides=TINY)
    for stage, key in (("autoencoder", "lr"), ("flow", "lr")):
        first = read_trials(out / stage)[0]
        assert first["status"] == "done"
        assert first["values"][f"{stage}.{key}"] == getattr(base, stage).lr
        assert best_trial(out / stage)["objective"] <= first["objective"]
    flow = read_trials(out / "flow")[0]
    assert flow["worst"] == flow["objective"] == flow["worst@1"], "every measure, at the faithful guidance"
    assert {"average", "w2", "correlation_error"} <= set(flow)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_train_takes_what_the_search_found(killed_and_resumed, tiny_atlas, tmp_path, capsys):
    out = killed_and_resumed["out"]
    found = load_config(out / "best.yaml")
    assert to_dict(found) == to_dict(killed_and_resumed["best"])
    values = best_trial(out / "autoencoder")["values"]
    assert {"autoencoder.lr": found.autoencoder.lr, "autoencoder.hidden": found.autoencoder.hidden} == values
    assert found.flow.lr == best_trial(out / "flow")["values"]["flow.lr"]
    assert found.sampling.guidance in (1, 2)
    assert found.sampling.steps in (3, 10), "the base's own steps are scored too"
    assert found.refit, "the search's own settings are not handed on"
    assert main(["train", str(tiny_atlas), "--out", str(tmp_path / "run"), "--config", str(out / "best.yaml")]) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disk_holds_the_best_weights_only(killed_and_resumed):
    out = killed_and_resumed["out"]
    assert not list(out.rglob("*.ckpt"))
    kept = sorted(path.parent for path in out.rglob("weights.safetensors"))
    assert kept == sorted(Path(best_trial(out / stage)["folder"]) for stage in ("autoencoder", "flow"))
    assert not (out / "ray").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_table_and_report(killed_and_resumed):
    out = killed_and_resumed["out"]
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["stage"] for row in rows] == ["autoencoder"] * 5 + ["flow"] * 4 + ["sampling"] * 4
    assert {row["status"] for row in rows} <= {"done", "stopped", "failed"}
    for row in rows[:5]:
        assert float(row["autoencoder.lr"]) > 0
    settings = list(csv.DictReader((out / "sampling.csv").open()))
    assert [row["chosen"] for row in settings].count("True") == 1
    distances = [float(value) for key, value in settings[0].items() if key.endswith("_distance")]
    assert float(settings[0]["worst"]) == max(distances)
    page = (out / "report.html").read_text()
    assert "Worst distance to the floor" in page
    assert "Linear classifier AUC" in page
    assert page.count("data:image/png;base64,") >= 4
    assert "http" not in page.replace("http-equiv", ""), "one self-contained page"
    assert "parallel coordinates" in page
    assert "(base)" in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_finished_search_does_nothing_again(killed_and_resumed, ray_local, tiny_atlas):
    out = killed_and_resumed["out"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob(RESULT)}
    options = {"space": killed_and_resumed["space"], "ray": "local", "concurrent": 2}
    tune(tiny_atlas, out, 9, config=load_config(overrides=TINY), **options, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob(RESULT)} == before
    with pytest.raises(BadInput, match=r"holds a search already: `resume=True` continues it"):
        tune(tiny_atlas, out, 9, config=load_config(overrides=TINY), **options)
    with pytest.raises(BadInput, match=r"was started with trials = 9, not 8: resume it without changes"):
        tune(tiny_atlas, out, 8, config=load_config(overrides=TINY), **options, resume=True)
    with pytest.raises(BadInput, match=r"was started with another base: resume it without changes"):
        tune(tiny_atlas, out, 9, config=load_config(), **options, resume=True)


def test_suggestions_begin_with_the_base_and_learn_from_what_is_known(tmp_path):
    keys = {"flow.lr": Range(1e-4, 1e-2, log=True, whole=False), "flow.blocks": Choice((2, 3))}
    base = {"flow.lr": 1e-3, "flow.blocks": 4}  # outside: tried all the same
    suggest = Suggest(RunFolder(tmp_path), tmp_path, keys, base, {"stage": "flow"}, 0, 8, [], [])
    first, second, third = (suggest.suggest(f"t{i}") for i in range(3))
    assert first["values"] == base
    assert Path(first["folder"]).name == "0000"
    assert second["values"]["flow.blocks"] in (2, 3)
    for config, objective in ((first, 3.0), (second, 2.0)):
        (Path(config["folder"]) / "reports.jsonl").write_text(
            json.dumps({"step": 1, "objective": objective, "time": 0})
        )
    finish(Path(first["folder"]), "done", objective=3.0)
    suggest.on_trial_complete("t0")
    suggest.on_trial_complete("t1")  # the scheduler stopped it: it could not say so itself
    suggest.on_trial_complete("t2", error=True)
    statuses = [record["status"] for record in read_trials(tmp_path)]
    assert statuses == ["done", "stopped", "failed"]
    assert "lost" in read_trials(tmp_path)[2]["why"]
    records = read_trials(tmp_path)
    left = [records[2] | {"status": "unfinished"}]
    again = Suggest(RunFolder(tmp_path), tmp_path, keys, base, {"stage": "flow"}, 0, 8, records[:2], left)
    assert again.suggest("u0")["folder"] == third["folder"], "an unfinished trial goes on before a new one begins"
    assert Path(again.suggest("u1")["folder"]).name == "0003"
    assert [trial.state.name for trial in again.study.trials] == ["PRUNED", "RUNNING"], (
        "the base lies outside the space"
    )


def test_halving_remembers_trials_and_spares_the_base(tmp_path):
    from types import SimpleNamespace

    known = []
    for number in range(4):
        folder = new_trial(tmp_path, number, {})
        lines = [json.dumps({"step": step, "objective": 1.0, "time": 0}) for step in (1, 2)]
        (folder / "reports.jsonl").write_text("\n".join(lines))
        known.append({"folder": str(folder)})
    options = {"time_attr": "step", "metric": "objective", "mode": "min", "grace_period": 1, "max_t": 9}
    halving = Halving(**options, reduction_factor=2, stop_last_trials=False)
    halving.remember(known)
    decisions = {}
    for name in ("0000", "0007"):
        trial = SimpleNamespace(trial_id=name, config={"folder": str(tmp_path / name)})
        halving.on_trial_add(None, trial)
        decisions[name] = halving.on_trial_result(None, trial, {"step": 1, "objective": 5.0})
    assert decisions == {"0000": "CONTINUE", "0007": "STOP"}


def test_a_value_that_is_none_ends_the_trial(tmp_path):
    sent = []
    report = ReportLikelihood(sent.append, new_trial(tmp_path, 0, {}))
    report.tell(1, 2.0)
    with pytest.raises(Diverged, match=r"^diverged: the objective is nan after report 2$"):
        report.tell(2, math.nan)
    assert [each["step"] for each in sent] == [1]
    with open(tmp_path / "0000" / "reports.jsonl", "a") as file:
        file.write('{"step": 2, "obj')  # as a kill may leave it
    assert [each["step"] for each in read_reports(tmp_path / "0000")] == [1]


def request_of(atlas):
    """What `tune.json` holds."""
    return {
        "atlas": atlas, "base": {}, "space": {}, "trials": 1, "scheduler": "asha", "objective": "w2", "seed": 0,
        "workers": 1, "guidance": [1.0],
    }  # fmt: skip


def test_a_trial_works_without_ray(tiny_atlas, tmp_path):
    """And never sees validation or test cells in training: `refit` is off whatever the base says."""
    config = load_config(overrides=TINY)
    request = request_of({"path": str(tiny_atlas), "fingerprint": "a"}) | {"base": to_dict(config)}
    (tmp_path / "tune.json").write_text(json.dumps(request))
    folder, sent = new_trial(tmp_path / "autoencoder", 0, {}), []
    last = work(RunFolder(tmp_path), "autoencoder", {"autoencoder.lr": 2e-3}, folder, sent.append)
    assert [report["step"] for report in sent] == [1, 2], "after the last epoch nothing is left to decide"
    reports = read_reports(folder)
    assert [report["step"] for report in reports] == [1, 2, 3]
    assert last["objective"] == min(report["val_nll"] for report in reports)
    assert not (folder / "refit").exists()
    assert (folder / "weights.safetensors").exists()


def test_a_flow_is_scored_by_a_copy_of_its_own(tmp_path):
    """Which can be on the CPU while the network trains on a GPU; at each new quarter, none twice."""
    from types import SimpleNamespace

    import torch

    scored = []
    report = ReportSamples(print, new_trial(tmp_path, 0, {}), lambda velocity: scored.append(velocity) or (1.0, {}))
    module = SimpleNamespace(velocity=torch.nn.Linear(2, 2))
    for step in (9, 10, 15, 25, 40):
        report.on_validation_epoch_end(SimpleNamespace(global_step=step, max_steps=40), module)
    assert len(scored) == 2, "the first and the second quarter; the last is scored when all is done"
    assert scored[0] is not module.velocity
    assert torch.equal(scored[0].weight, module.velocity.weight)


def test_importances_find_what_matters():
    import numpy as np

    rng = np.random.default_rng(0)
    keys = {
        "flow.lr": Range(1e-4, 1e-2, True, False),
        "flow.blocks": Choice((1, 2, 3)),
        "flow.ema": Choice((0.9, 0.99)),
    }
    records = []
    for _ in range(60):
        values = {"flow.lr": 10 ** rng.uniform(-4, -2), "flow.blocks": int(rng.integers(1, 4)), "flow.ema": 0.9}
        records.append(
            {"values": values, "objective": abs(np.log10(values["flow.lr"]) + 3) + 0.1 * values["flow.blocks"]}
        )
    shares = importances(records, keys)
    assert list(shares) == ["flow.lr", "flow.blocks", "flow.ema"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["flow.lr"] > 0.7
    assert shares["flow.ema"] == 0
    assert importances(records[:3], keys) == {}


def test_the_choice_of_guidance_and_steps():
    def row(guidance, steps, w2, coverage=0.95):
        return {"guidance": guidance, "steps": steps, "w2": w2, "error": 0.1, "coverage": coverage}

    rows = [row(1, 3, 9.5), row(1, 10, 9.3), row(1.5, 3, 9.05), row(1.5, 10, 9.0), row(3, 10, 8.0, coverage=0.8)]
    assert choose(rows, "w2") == rows[2], "not the one without diversity; within the noise the fewest steps"
    assert choose([row(2, 5, 9.0), row(1, 5, 9.05)], "w2")["guidance"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 1}, "`trials` is 1, expected at least 2: half for autoencoders, half for flows"),
        ({"scheduler": "pbt", "trials": 3}, "`trials` is 3, expected at least 4"),
        ({"scheduler": "asah"}, "`scheduler`: unknown 'asah', did you mean 'asha'?"),
        ({"objective": "w3"}, "`objective`: unknown 'w3', did you mean 'w2'?"),
        ({"concurrent": 0}, "`concurrent` is 0, expected at least 1"),
        ({"workers": 0}, "`workers` is 0, expected at least 1"),
        ({"gpus_per_worker": 1.5}, "`gpus_per_worker` is 1.5, expected a fraction of one, or a whole number"),
        (
            {"gpus_per_worker": 0.5, "workers": 2},
            "`gpus_per_worker` is 0.5 with 2 workers a trial, expected whole GPUs",
        ),
        ({"space": {"flwo": {}}}, "search space: unknown group 'flwo', did you mean 'flow'?"),
        ({"scheduler": "pbt", "space": "default"}, "search space default: autoencoder.latent_dim cannot change"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(options, message, tiny_atlas, tmp_path):
    with pytest.raises(BadInput) as caught:
        tune(tiny_atlas, tmp_path / "run", **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_directories_that_are_no_search(tiny_atlas, tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(BadInput, match=r"exists and is not a search: give a directory that does not exist"):
        tune(tiny_atlas, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tune.json").write_text(json.dumps(request_of({"fingerprint": "a", "path": "one.zarr"})))
    with pytest.raises(BadInput, match=r"searches on one\.zarr, whose cells differ from those of two\.zarr"):
        _check_directory(RunFolder(tmp_path / "run"), {"atlas": {"fingerprint": "b", "path": "two.zarr"}}, True)


def test_room_is_known_before_anything_is_written(ray_local, tiny_atlas, tmp_path):
    for ray in ("local", "auto"):  # without a cluster in the environment both are this machine, which will not grow
        with pytest.raises(BadInput, match=r"a trial needs 1 GPU, but this machine's cluster has 0"):
            tune(tiny_atlas, tmp_path / "run", ray=ray, gpus_per_worker=1)
    assert list(tmp_path.iterdir()) == []
    assert _room({"workers": 1, "cpus": 0.2, "gpus": 0}, local=True) == 15, "fractions of three"
    assert _room({"workers": 5, "cpus": 1, "gpus": 4}, local=False) == 1, "a cluster that may grow"


@pytest.mark.slow  # the connection of generation/test_workers.py; a search only imports more
def test_a_cluster_that_is_not_there_leaves_nothing(tiny_atlas, tmp_path):
    command = [sys.executable, "-m", "cfgen_dist", "tune", str(tiny_atlas), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--ray", "127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--ray 127.0.0.1:1: no Ray cluster can be joined there" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_space_is_kept_as_it_was_read(tiny_atlas):
    from cfgen_dist.training.settle import settle
    from cfgen_dist.tuning.space import as_json

    config = load_config(overrides=TINY)
    settle(config, open_atlas(tiny_atlas), here=False)
    space = load_space(SPACE, config)
    assert load_space(json.loads(json.dumps(as_json(space))), config) == space
