"""Generated stores in a bucket: the bytes of those on a disk, through kills, from whatever machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from buckets import Line

from cfgen_dist.cli import main
from cfgen_dist.generation import disk
from cfgen_dist.generation.augment import augment
from cfgen_dist.generation.plan import make_plan
from cfgen_dist.generation.run import generate
from cfgen_dist.verification.run import verify
from data_loaders import open_atlas
from data_loaders.errors import BadInput

WORDS = ["--cells", "600", "--shard-size", "60", "--seed", "5"]
OPTIONS = {"cells": 600, "shard_size": 60, "seed": 5}


def files(folder):
    """Name → bytes of all files of a folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(bucket, folder):
    """Key from here → bytes of all objects of a folder of a bucket."""
    return {key.removeprefix(f"{folder}/"): bucket.read(key) for key in bucket.keys(f"{folder}/")}


@pytest.fixture(scope="module")
def expected(tiny_run, tmp_path_factory):
    """The store that is made on a disk."""
    out = tmp_path_factory.mktemp("disk") / "cells.zarr"
    return out, generate(tiny_run, out, workers=1, **OPTIONS)


@pytest.fixture
def run(bucket, tiny_run):
    """Address of the tiny run, of which there is no more than its bundle."""
    bucket.put_folder("run/bundle", tiny_run / "bundle")
    return f"{bucket.url}/run"


def beside(bucket):
    """What is in the bucket beside the run and the store."""
    return [key for key in bucket.keys("") if not key.startswith(("run/", "cells.zarr/"))]


def test_the_objects_are_the_bytes_of_the_files(expected, bucket, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = f"{bucket.url}/cells.zarr"
    assert main(["generate", run, out, *WORDS]) == 0
    assert expected[1]["sha256"] in capsys.readouterr().out
    assert objects(bucket, "cells.zarr") == files(expected[0])
    assert beside(bucket) == ["cells.zarr.plan.json"], "no parts and no lock are left"
    assert bucket.read("cells.zarr.plan.json") == Path(f"{expected[0]}.plan.json").read_bytes()
    assert list(tmp_path.iterdir()) == [], "nothing here"
    assert main(["verify", out, "--run", run, "--shards", "2"]) == 0
    assert "equal to the byte: shards" in capsys.readouterr().out
    assert main(["generate", run, f"{bucket.url}/again.zarr", "--plan", f"{out}.plan.json", "--workers", "2"]) == 0
    assert objects(bucket, "again.zarr") == files(expected[0])


def test_what_is_there_is_refused(expected, bucket, run, capsys):
    out = f"{bucket.url}/cells.zarr"
    bucket.put("cells.zarr/notes.txt", b"of somebody")
    assert main(["generate", run, out, *WORDS]) == 2
    assert capsys.readouterr().err.startswith(f"error: {out}: exists already")
    bucket.client.delete_object(Bucket=bucket.name, Key="cells.zarr/notes.txt")
    bucket.put("cells.zarr.parts/note.json", b'{"plan": {}}')
    assert main(["generate", run, out, *WORDS]) == 2
    assert f"{out}.parts holds an interrupted generation: --resume finishes it" in capsys.readouterr().err
    assert main(["generate", run, out, *WORDS, "--resume"]) == 2
    assert f"{out}.parts holds shards of another plan" in capsys.readouterr().err
    assert beside(bucket) == ["cells.zarr.parts/note.json"]
    bucket.put_folder("cells.zarr", expected[0])
    assert main(["generate", run, out, *WORDS]) == 2
    assert capsys.readouterr().err == f"error: {out}: exists already\n"
    assert main(["generate", run, out, *WORDS, "--resume"]) == 0
    capsys.readouterr()
    assert beside(bucket) == ["cells.zarr.plan.json"], "the parts that a killed command had not removed are gone"
    assert main(["generate", run, out, "--cells", "5", "--resume"]) == 2
    assert f"{out}: exists already, made by another plan" in capsys.readouterr().err
    assert main(["generate", f"{bucket.url}/none", f"{bucket.url}/other.zarr", "--cells", "5"]) == 2
    assert capsys.readouterr().err == f"error: {bucket.url}/none: no card.json there; expected a model bundle\n"


def killed(bucket, words, where, folder):
    """Run a command until it puts the object `where`, and kill it while its bytes go up; returns its exit status."""
    process = None

    def kill(line):
        if line.startswith("PUT") and where in line:
            os.kill(process.pid, signal.SIGKILL)
            return "refuse"
        return None

    with Line(bucket.endpoint) as line:
        line.fail = kill
        folder.mkdir()
        environ = os.environ | bucket.environ | {"AWS_ENDPOINT_URL": line.url, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-m", "cfgen_dist", *words]
        process = subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE)
        process.communicate(timeout=300)
    return process.returncode


@pytest.mark.parametrize(
    "where",
    [
        "cells.zarr.parts/shard-000004.npz",
        pytest.param("cells.zarr.parts/shard-000004.json", marks=pytest.mark.slow),
        pytest.param("cells.zarr/X/data/c/0", marks=pytest.mark.slow),
        pytest.param("cells.zarr/zarr.json", marks=pytest.mark.slow),
        pytest.param("cells.zarr.plan.json", marks=pytest.mark.slow),
    ],
)
def test_a_killed_command_is_finished_by_whoever_has_the_bucket(expected, bucket, run, tmp_path, monkeypatch, where):
    """kill -9 in mid-upload: nothing opens, and elsewhere the same bytes come out."""
    out = f"{bucket.url}/cells.zarr"
    assert killed(bucket, ["generate", run, out, *WORDS, "--workers", "1"], where, tmp_path / "here") == -signal.SIGKILL
    assert list((tmp_path / "here").iterdir()) == []
    done = [key for key in bucket.keys("cells.zarr.parts/") if key.endswith(".json") and "shard" in key]
    if "plan" not in where:
        assert len(done) == (4 if "parts" in where else 10)
        with pytest.raises(BadInput):
            open_atlas(out)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    summary = generate(run, out, resume=True, **OPTIONS)
    assert summary.get("shards_kept", 0) == len(done)
    assert objects(bucket, "cells.zarr") == files(expected[0])
    assert beside(bucket) == ["cells.zarr.plan.json"]


def test_damaged_parts_in_a_bucket_are_made_again(expected, bucket, run, tmp_path):
    out = f"{bucket.url}/cells.zarr"
    killed(bucket, ["generate", run, out, *WORDS, "--workers", "1"], "parts/shard-000003.npz", tmp_path / "here")
    part = bucket.read("cells.zarr.parts/shard-000001.npz")
    bucket.put("cells.zarr.parts/shard-000001.npz", part[:-100] + bytes(100))
    bucket.put("cells.zarr.parts/shard-000002.npz", part[:-100])
    assert generate(run, out, resume=True, **OPTIONS)["shards_kept"] == 2
    assert objects(bucket, "cells.zarr") == files(expected[0])


def test_a_bucket_that_fails_now_and_then(expected, bucket, run, monkeypatch):
    """500s, an answer that is lost and one that is cut are tried again, and the bytes are the same."""
    with Line(bucket.endpoint) as line:
        faults = [
            line.times("500", 2, "shard-000002.npz"), line.times("503", 1, "shard-000003.json"),
            line.times("cut", 1, "GET /"), line.times("lost", 1, "note.json"),
        ]  # fmt: skip
        line.fail = lambda request: next((what for fault in faults if (what := fault(request))), None)
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        generate(run, f"{bucket.url}/cells.zarr", **OPTIONS)
    assert objects(bucket, "cells.zarr") == files(expected[0])


def test_a_bucket_has_no_end(tiny_run, tmp_path, monkeypatch):
    from cfgen_dist.bundle import CFGen

    model = CFGen.load(tiny_run)
    plan = make_plan(model, 10**11)
    with pytest.raises(BadInput, match="are free; expected fewer cells, or a larger disk"):
        disk.check_room(tmp_path / "cells.zarr", model, plan)
    disk.check_room("s3://bucket/cells.zarr", model, plan)


def test_augmentation_in_a_bucket(bucket, run, tiny_run, tiny_atlas, tmp_path):
    bucket.put_folder("atlas.zarr", tiny_atlas)
    options = {"shard_size": 40, "seed": 1}
    here = augment(tiny_run, tiny_atlas, tmp_path / "more.zarr", 700, **options)
    there = augment(run, f"{bucket.url}/atlas.zarr", f"{bucket.url}/more.zarr", 700, **options)
    assert there["sha256"] == here["sha256"]
    assert there["types"] == here["types"]
    made, expected = objects(bucket, "more.zarr"), files(tmp_path / "more.zarr")
    differ = {name for name in made | expected if made.get(name) != expected.get(name)}
    assert differ <= {"uns/atlas_card/c", "uns/atlas_files/c"}, "the card says where the real cells are"
    assert bucket.read("more.zarr.plan.json") == (tmp_path / "more.zarr.plan.json").read_bytes()
    assert verify(f"{bucket.url}/more.zarr")["kind"] == "generated atlas"


@pytest.mark.slow
def test_actors_need_no_more_than_the_bucket(ray_local, expected, bucket, run):
    """They were started before the bucket was known: how it is reached comes from the driver."""
    out = f"{bucket.url}/cells.zarr"
    generate(run, out, ray="local", workers=2, **OPTIONS)
    assert objects(bucket, "cells.zarr") == files(expected[0])


@pytest.mark.slow
def test_a_killed_driver_of_actors_is_resumed_by_threads(expected, bucket, run, tmp_path):
    out, words = f"{bucket.url}/cells.zarr", [*WORDS, "--ray", "local", "--workers", "2"]
    status = killed(bucket, ["generate", run, out, *words], "cells.zarr.parts/shard-000005.json", tmp_path / "here")
    assert status == -signal.SIGKILL
    with pytest.raises(BadInput):
        open_atlas(out)
    assert generate(run, out, resume=True, **OPTIONS)["shards_kept"] >= 2
    assert objects(bucket, "cells.zarr") == files(expected[0])
