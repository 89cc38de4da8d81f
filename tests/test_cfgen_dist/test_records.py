"""Bundles, plans, runs, searches and tables of others: read with the same result as before, or refused in one line."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import FAST, LONG, ODD_FILES, as_text, mutated, places, write_odd
from rich.console import Console
from safetensors.numpy import load_file, save_file

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.cli.describe import _print_bundle
from cfgen_dist.config import load_config, to_dict
from cfgen_dist.evaluation.origin import parse_generation
from cfgen_dist.evaluation.workspace import PlanForm, ScoreForm
from cfgen_dist.generation.plan import make_plan, read_plan
from cfgen_dist.generation.request import combinations_of, read_label_table
from cfgen_dist.generation.run import generate
from cfgen_dist.training import checkpoints
from cfgen_dist.training.run import read_run
from cfgen_dist.tuning import records
from cfgen_dist.tuning.trials import best_trial, read_trials
from cfgen_dist.workers.parts import Ledger, PartRecord
from data_loaders import BadInput
from data_loaders.records import parse_json, read_json


def accepts(read):
    """Whether `read()` works; a refusal must be one line."""
    try:
        read()
    except BadInput as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1000
        text.encode()
        return False
    return True


@pytest.fixture(scope="module")
def model(tiny_run):
    return CFGen.load(tiny_run)


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    """A copy of the bundle that may be changed."""
    path = tmp_path_factory.mktemp("others") / "bundle"
    shutil.copytree(tiny_run / "bundle", path)
    return path


@pytest.fixture(scope="module")
def card(bundle):
    return json.loads((bundle / "card.json").read_text())


def sign(bundle, card):
    """Write a card as its maker would: with its digest, and those of the files."""
    if isinstance(card, dict) and isinstance(card.get("sha256"), dict):
        rest = {key: value for key, value in card.items() if key != "sha256"}
        card["sha256"]["card"] = hashlib.sha256(json.dumps(rest).encode()).hexdigest()
    (bundle / "card.json").write_text(json.dumps(card, indent=1))


def check_bundle(bundle, card, change):
    def read():
        loaded = CFGen.load(bundle)
        _print_bundle(Console(file=io.StringIO(), highlight=False), str(bundle), json.loads(as_text(change)))
        make_plan(loaded, 5)

    sign(bundle, change)
    accepts(read)
    sign(bundle, card)


@FAST
@given(data=st.data())
def test_cards_of_bundles_with_something_wrong(bundle, card, data):
    check_bundle(bundle, card, data.draw(mutated(card)))


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_cards_of_bundles_with_something_wrong(bundle, card, data):
    check_bundle(bundle, card, data.draw(mutated(card)))


@pytest.mark.parametrize("kind", ODD_FILES)
def test_cards_of_bundles_that_are_no_files(tiny_run, tmp_path, capsys, kind):
    shutil.copytree(tiny_run / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / "card.json"
    write_odd(path, path.read_text(), kind)
    for command in (
        ["describe", str(tmp_path / "bundle")],
        ["generate", str(tmp_path / "bundle"), str(tmp_path / "x"), "5"],
    ):
        command = command if command[0] == "describe" else [*command[:3], "--cells", "5"]
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


CHANGES = {
    "missing": lambda arrays, key: arrays.pop(key),
    "shape": lambda arrays, key: arrays.update({key: arrays[key].reshape(-1)[:1].repeat(97)}),
    "type": lambda arrays, key: arrays.update({key: arrays[key].astype(np.int8)}),
    "not finite": lambda arrays, key: arrays.update({key: np.full_like(arrays[key], np.nan, np.float32)}),
    "more": lambda arrays, key: arrays.update({"x": arrays[key]}),
    "negative": lambda arrays, key: arrays.update({key: -1 - arrays[key]}),
    "huge": lambda arrays, key: arrays.update({key: arrays[key] * 0 + {"i": 2**62}.get(arrays[key].dtype.kind, 1e30)}),
    "empty": lambda arrays, key: arrays.update({key: arrays[key][:0] if arrays[key].ndim else arrays[key][None]}),
}  # fmt: skip


@pytest.mark.parametrize("name", ["autoencoder", "flow", "size_factor", "labels"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_arrays_of_bundles_with_right_checksums(tiny_run, tmp_path, name, change):
    path = tmp_path / "bundle"
    shutil.copytree(tiny_run / "bundle", path)
    file, card = path / f"{name}.safetensors", json.loads((path / "card.json").read_text())
    whole = load_file(file)
    for key in list(whole)[:: max(1, len(whole) // 6)]:
        arrays = dict(whole)
        with np.errstate(all="ignore"):
            CHANGES[change](arrays, key)
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, file)
        card["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        sign(path, card)
        fine = accepts(lambda: make_plan(CFGen.load(path), 5))
        may_lack = (change, key) == ("missing", "mean_log_size")  # bundles of before
        assert not fine or change in ("negative", "huge") or may_lack, f"{key} is taken"


def test_a_config_that_asks_for_a_network_of_any_size(bundle, card):
    for group, key, value in (
        ("flow", "hidden", 10**9), ("flow", "blocks", 10**9), ("autoencoder", "latent_dim", 10**12),
        ("autoencoder", "hidden", [10**15, 10**15]), ("flow", "embedding", 10**18),
    ):  # fmt: skip
        change = json.loads(json.dumps(card))
        change["config"][group][key] = value
        sign(bundle, change)
        assert not accepts(lambda: CFGen.load(bundle))
    sign(bundle, card)


def check_plan(path, model, plan, change):
    path.write_text(as_text(change))

    def read():
        assert read_plan(path, model).n_cells == sum(change["counts"])

    accepts(read)


@FAST
@given(data=st.data())
def test_plans_with_something_wrong(model, tmp_path, data):
    plan = make_plan(model, 20).to_dict()
    check_plan(tmp_path / "plan.json", model, plan, data.draw(mutated(plan)))


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_plans_with_something_wrong(model, tmp_path, data):
    plan = make_plan(model, 20).to_dict()
    check_plan(tmp_path / "plan.json", model, plan, data.draw(mutated(plan)))


@pytest.mark.parametrize("kind", ODD_FILES)
def test_plans_that_are_no_files(model, tmp_path, kind):
    path = tmp_path / "plan.json"
    write_odd(path, make_plan(model, 20).to_json(), kind)
    assert not accepts(lambda: read_plan(path, model))


RECORD = {"part": "a", "work": "w", "bytes": 5, "file_sha256": "0" * 64, "cells": 3}
PLAN = {
    "settings": "s",
    "protocol": "paper",
    "seed": 0,
    "n_types": 3,
    "n_genes": 9,
    "sets": {"test": 0},
    "binary": True,
}
SCORE = RECORD | {"overall": {"w2": 1.5, "auc": None}, "types": [{"w2": 1.0}, {"w2": None}]}
GENERATION = {"plan": {"seed": 0}, "labels": {"a": ["x", "y"]}, "model": {"atlas": {"path": "a"}}, "sha256": "0" * 64}
REQUEST = {
    "atlas": {"path": "a.zarr", "fingerprint": "f", "n_cells": 3}, "base": to_dict(load_config()),
    "space": {"flow": {}},
    "trials": 4, "scheduler": "asha", "objective": "w2", "seed": 0, "workers": 1, "guidance": [1.0, 1.5],
}  # fmt: skip
SETTING = {
    "guidance": 1.0, "steps": 5, "error": 0.1, "worst": 3.0, "average": 1.0, "worst_measure": "w2",
    "distances": {"w2": 3.0, "mmd": 0.0},
}  # fmt: skip
FORMS = {
    "part": (PartRecord, RECORD), "evaluation plan": (PlanForm, PLAN), "score": (ScoreForm, SCORE),
    "request": (records.RequestForm, REQUEST),
    "trial": (records.TrialForm, {"values": {"flow.lr": 0.1}, "started": 5.5}),
    "result": (records.ResultForm, {"status": "done", "finished": 9.5, "objective": 1.5}),
    "best": (records.BestForm, {"number": 3, "values": {}}),
    "sampling": (records.SamplingForm, {
        "rows": [SETTING], "chosen": SETTING,
    }),
}  # fmt: skip


@FAST
@given(kind=st.sampled_from(sorted(FORMS)), data=st.data())
def test_records_with_something_wrong(kind, data):
    form, valid = FORMS[kind]
    assert parse_json(as_text(valid), form, kind) == valid
    change = data.draw(mutated(valid))
    accepts(lambda: parse_json(as_text(change), form, kind, any_number=True))


@FAST
@given(data=st.data(), ours=st.booleans())
def test_notes_of_generated_stores(data, ours):
    change = data.draw(mutated(GENERATION))
    fine = accepts(lambda: parse_generation(as_text(change), "a.zarr", ours))
    assert fine or ours, "something else of that name in a store of others is not looked at"


@FAST
@given(data=st.data())
def test_records_of_parts_do_not_count_if_anything_is_wrong(tmp_path, data):
    ledger = Ledger(tmp_path, "w")
    good = ledger.commit("a", {"x": np.arange(3)}, cells=3)
    change = data.draw(mutated(good))
    Path(ledger.record_path("a")).write_text(as_text(change))
    found = ledger.whole_record("a")
    assert found is None or {key: found[key] for key in ("part", "work", "bytes", "file_sha256")} == {
        key: good[key] for key in ("part", "work", "bytes", "file_sha256")
    }
    assert ledger.commit("a", {"x": np.arange(3)}, cells=3) == good


@pytest.fixture(scope="module")
def interrupted(tiny_run, tmp_path_factory):
    """A generation that is whole, and the parts of one that was interrupted."""
    import cfgen_dist.generation.store as store

    folder = tmp_path_factory.mktemp("generation")
    whole = generate(tiny_run, folder / "whole.zarr", 60, shard_size=20, workers=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "append_parts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tiny_run, folder / "cells.zarr", 60, shard_size=20, workers=1)
    return folder / "cells.zarr.parts", whole


@pytest.mark.parametrize("kind", ["empty", "folder", "pipe", "deep", "cells", "sha256", "counts", "bytes", "note"])
def test_a_generation_goes_on_whatever_the_record_of_a_shard_is(tiny_run, tmp_path, kind, interrupted):
    """A record that is damaged, or says something else than the shard, means that the shard is made again."""
    parts, whole = tmp_path / "cells.zarr.parts", interrupted[1]
    shutil.copytree(interrupted[0], parts)
    path = parts / "shard-000001.json"
    record = json.loads(path.read_text())
    if kind in record:
        changed = "0" * 64 if kind == "sha256" else record[kind] + 1
        path.write_text(json.dumps(record | {kind: changed}))
    elif kind == "note":
        (parts / "shard-000001.npz").unlink()
        (parts / "shard-000001.npz").mkdir()
        write_odd(parts / "note.json", "{}", "cut")
    else:
        write_odd(path, path.read_text(), kind)
    again = generate(tiny_run, tmp_path / "cells.zarr", 60, shard_size=20, workers=1, resume=True)
    same = ("sha256", "cells", "mean_counts", "zeros")
    assert [again[key] for key in same] == [whole[key] for key in same]


def interrupt(*_):
    raise KeyboardInterrupt


@FAST
@given(data=st.data())
def test_runs_with_something_wrong(tiny_run, tmp_path, data):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    change = data.draw(mutated(json.loads((tiny_run / "atlas.json").read_text())))
    (tmp_path / "atlas.json").write_text(as_text(change))
    accepts(lambda: read_run(tmp_path))
    (tmp_path / "config.yaml").write_text(as_text(data.draw(mutated(to_dict(load_config(tiny_run / "config.yaml"))))))
    accepts(lambda: read_run(tmp_path))


@pytest.mark.parametrize("kind", ODD_FILES)
def test_files_of_runs_that_are_no_files(tiny_run, tmp_path, kind):
    for name in ("config.yaml", "atlas.json"):
        for each in ("config.yaml", "atlas.json"):
            if not (tmp_path / each).is_file():
                if (tmp_path / each).is_dir():
                    (tmp_path / each).rmdir()
                (tmp_path / each).unlink(missing_ok=True)
            shutil.copy(tiny_run / each, tmp_path)
        write_odd(tmp_path / name, (tiny_run / name).read_text(), kind)
        assert not accepts(lambda: read_run(tmp_path)), name


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "a: 2020-13-45", "a: 0x" + "f" * 9000, "[" * 500, "? [a]\n: b", "!!python/object:os.system x",
     "a: !!binary x",
     "- a\n- b", "\0", "a: [&x [1,1], &y [*x,*x,*x,*x,*x,*x,*x,*x,*x]]",
     "{a: !!set {b}}", "labels: \"\\0\"",
     "&a [" + ",".join(["1"] * 9) + "]\n", "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
         f"{b}: &{b} [" + ",".join([f"*{a}"] * 9) + "]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))],
)  # fmt: skip
def test_yaml_without_surprises(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert not accepts(lambda: load_config(tmp_path / "c.yaml"))


def test_a_search_of_others(tmp_path):
    stage = tmp_path / "flow"
    trial = stage / "0001"
    trial.mkdir(parents=True)
    (trial / "trial.json").write_text('{"values": {"flow.lr": 0.1}, "started": 1.0}')
    lines = [
        '{"step": 1, "objective": 2.5, "time": 2.0, "w2": NaN}',
        '{"step": 2, "obj',
        "[]",
        '{"step": -1}',
        "[" * 9000,
    ]
    (trial / "reports.jsonl").write_text("\n".join(lines))
    (trial / "result.json").write_text('{"status": "done", "finished": 3.0, "objective": 2.5, "auc": NaN}')
    (record,) = read_trials(stage)
    assert (record["steps"], record["objective"], record["seconds"]) == (1, 2.5, 2.0)
    assert best_trial(stage)["number"] == 1
    for name in ("trial.json", "result.json"):
        whole = (trial / name).read_text()
        for text in ("", "[]", whole[:9], '{"status": "won", "finished": 1}', '{"started": "x", "values": []}'):
            (trial / name).write_text(text)
            assert not accepts(lambda: read_trials(stage))
        (trial / name).write_text(whole)
    for read in (records.read_request, records.read_best_autoencoder, records.read_sampling):
        assert not accepts(lambda read=read: read(tmp_path))


class Same(torch.nn.Module):
    """A network whose state is that of a checkpoint."""

    def __init__(self, state):
        super().__init__()
        self.kept = dict(state)

    def state_dict(self):
        return dict(self.kept)


@FAST
@given(data=st.data())
def test_checkpoints_with_something_wrong(tiny_run, tmp_path, data):
    whole = torch.load(tiny_run / "autoencoder" / "best.ckpt", weights_only=True)
    whole["state_dict"] = dict(list(whole["state_dict"].items())[:3])
    whole |= {"optimizer_states": [{"state": {}}], "current_model_state": {}}
    tensors = Same(whole["state_dict"])
    path = data.draw(st.sampled_from([place for place in places(whole) if place]))
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    if isinstance(parent, tuple):
        return
    if data.draw(st.booleans()):
        del parent[path[-1]]
    else:
        parent[path[-1]] = data.draw(st.sampled_from((None, -1, 10**30, "x", [], {}, [1], torch.zeros(3), 0.5)))
    torch.save(whole, tmp_path / "best.ckpt")
    accepts(lambda: checkpoints.place_of(tmp_path / "best.ckpt"))
    accepts(lambda: checkpoints.best_state(tmp_path))
    fits = accepts(lambda: checkpoints.check_fits(tmp_path / "best.ckpt", tensors))
    assert not fits or path[0] != "state_dict"


@pytest.mark.parametrize("kind", ODD_FILES[:6])
def test_checkpoints_that_are_no_files(tmp_path, kind):
    write_odd(tmp_path / "best.ckpt", "PK\3\4" + "x" * 100, kind)
    assert not accepts(lambda: checkpoints.place_of(tmp_path / "best.ckpt"))


TABLE = "cell_type,donor,n\n" + "".join(f"type_{i % 3},donor_{i % 2},{i}\n" for i in range(1, 20))


@FAST
@given(at=st.integers(0, len(TABLE)), length=st.integers(0, 40), added=st.binary(max_size=4))
def test_label_tables_with_wrong_bytes(model, tmp_path, at, length, added):
    whole = TABLE.encode()
    (tmp_path / "t.csv").write_bytes(whole[:at] + added + whole[at + length :])
    accepts(lambda: combinations_of(model, None, read_label_table(tmp_path / "t.csv"), 0))


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".csv.gz"])
def test_label_tables_that_are_no_files(model, tmp_path, kind, ending):
    write_odd(tmp_path / f"t{ending}", TABLE, kind)
    fine = accepts(lambda: combinations_of(model, None, read_label_table(tmp_path / f"t{ending}"), 0))
    assert not fine or (kind, ending) == ("cut", ".csv"), "a table that is cut at the end of a field is a table"


@pytest.mark.parametrize(
    "values",
    [[1.5], [-1], [1e300], [np.nan], ["x"], [None], [2**63], [True], [[1]], [b"1"], [pd.Timestamp("2020")], [{"a": 1}]],
)
def test_label_tables_with_wrong_numbers(model, tmp_path, values):
    table = pd.DataFrame({"cell_type": ["type_0"], "donor": ["donor_0"], "n": values})
    try:
        table.to_parquet(tmp_path / "t.parquet")
    except (ValueError, OverflowError, TypeError):
        return
    fine = accepts(lambda: combinations_of(model, None, read_label_table(tmp_path / "t.parquet"), 0))
    assert not fine or values in ([True], [b"1"])


def test_label_tables_are_read_as_before(model, tmp_path):
    table = pd.DataFrame({"cell_type": ["type_0", "type_1"], "donor": ["donor_0", "donor_1"], "n": [3, 4]})
    for ending, write in ((".csv", table.to_csv), (".csv.gz", table.to_csv)):
        write(tmp_path / f"t{ending}", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    for ending in (".csv", ".csv.gz", ".parquet"):
        codes, counts = combinations_of(model, None, read_label_table(tmp_path / f"t{ending}"), 0)
        assert (codes.tolist(), counts.tolist()) == ([[0, 0], [1, 1]], [3, 4])


def test_what_is_read_is_what_is_there(tiny_run):
    text = (tiny_run / "atlas.json").read_text()
    assert read_json(tiny_run / "atlas.json", records.SearchedAtlas) == json.loads(text)
