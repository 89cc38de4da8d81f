"""Stores written to a bucket: the same bytes as on a disk, whole or not at all."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from buckets import Line
from scipy.sparse import csr_matrix

from data_loaders import AtlasWriter, BadInput, LatentWriter, open_atlas, simulate
from data_loaders.identity import id_of
from data_loaders.storage import place
from data_loaders.writing import arrays, building

SMALL = {"cells": 300, "genes": 40, "types": 3, "donors": 2, "density": 0.3, "seed": 3}


def objects(bucket, key):
    """The content of all objects of a store."""
    return {name.removeprefix(f"{key}/"): bucket.read(name) for name in bucket.keys(f"{key}/")}


def files(folder):
    """The content of all files of a store."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_in_a_bucket_has_the_bytes_of_one_on_a_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 64)
    monkeypatch.setattr(arrays, "SHARD", 256)
    simulate(tmp_path / "a.zarr", peaks=20, **SMALL)
    simulate(f"{bucket.url}/x/a.zarr", peaks=20, **SMALL)
    assert objects(bucket, "x/a.zarr") == files(tmp_path / "a.zarr")
    assert bucket.keys() == sorted(f"x/a.zarr/{name}" for name in files(tmp_path / "a.zarr")), "nothing else is left"
    assert open_atlas(f"{bucket.url}/x/a.zarr").card == open_atlas(tmp_path / "a.zarr").card


def test_counts_that_outgrow_their_type_are_rewritten(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 8)
    monkeypatch.setattr(arrays, "SHARD", 16)
    var = pd.DataFrame(index=[f"g{i}" for i in range(10)])
    for path in (tmp_path / "a.zarr", f"{bucket.url}/a.zarr"):
        with AtlasWriter(path, var, identity=id_of("a")) as writer:
            for largest in (1, 300, 70_000):
                counts = csr_matrix(np.ones((20, 10), np.int64))
                counts.data[0] = largest
                writer.append(counts, pd.DataFrame(index=[f"c{largest}-{i}" for i in range(counts.shape[0])]))
            writer.close()
    assert objects(bucket, "a.zarr") == files(tmp_path / "a.zarr")


def test_latents(bucket, tmp_path, tiny_atlas):
    atlas = open_atlas(tiny_atlas)
    for path in (tmp_path / "l.zarr", f"{bucket.url}/l.zarr"):
        with LatentWriter(path, atlas, 4, id_of("l")) as writer:
            writer.append(np.ones((atlas.n_cells, 4)), np.arange(atlas.n_cells))
    assert objects(bucket, "l.zarr") == files(tmp_path / "l.zarr")


def test_what_is_there_is_refused_and_left_alone(bucket):
    simulate(f"{bucket.url}/a.zarr", **SMALL)
    before = objects(bucket, "a.zarr")
    bucket.put("mine/thesis.txt", b"text")
    bucket.put("file", b"text")
    for name in ("a.zarr", "mine", "file"):
        with pytest.raises(BadInput, match=f"{bucket.url}/{name}: exists already; expected an address where nothing"):
            simulate(f"{bucket.url}/{name}", **SMALL)
    assert objects(bucket, "a.zarr") == before
    assert bucket.keys("mine") == ["mine/thesis.txt"]
    with pytest.raises(BadInput, match="the web is only read"):
        simulate("http://127.0.0.1:9/a.zarr", **SMALL)


def test_an_error_leaves_nothing(bucket, monkeypatch):
    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(building.Building, "finish", fail)
    with pytest.raises(KeyboardInterrupt):
        simulate(f"{bucket.url}/a.zarr", **SMALL)
    assert bucket.keys() == []


def test_faults_on_the_way_change_nothing(bucket, tmp_path, monkeypatch):
    simulate(tmp_path / "a.zarr", **SMALL)
    with Line(bucket.endpoint) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        faults = iter(["500", "lost", None, "cut", "503", "refuse", 0.2, None, None] * 1000)
        line.fail = lambda _: next(faults) if len(line.requests) % 5 == 0 else None
        simulate(f"{bucket.url}/a.zarr", **SMALL)
    assert objects(bucket, "a.zarr") == files(tmp_path / "a.zarr")
    assert set(bucket.keys()) == {f"a.zarr/{name}" for name in files(tmp_path / "a.zarr")}


@pytest.mark.heavy
def test_a_killed_command_leaves_nothing_that_opens_and_is_repeated(bucket, tmp_path, monkeypatch):
    simulate(tmp_path / "a.zarr", **SMALL)
    out = f"{bucket.url}/a.zarr"
    program = f"from data_loaders import simulate; simulate({out!r}, **{SMALL!r})"
    for many in (2, 8, 30):  # requests after which it dies
        with Line(bucket.endpoint) as line:
            environ = os.environ | {"AWS_ENDPOINT_URL": line.url}
            child = subprocess.Popen([sys.executable, "-c", program], env=environ, stderr=subprocess.DEVNULL)
            line.fail = lambda _, line=line, many=many: 60 if len(line.requests) > many else None
            while len(line.requests) <= many and child.poll() is None:
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        assert bucket.keys(), "it has begun"
        with pytest.raises(BadInput, match="not a Zarr store"):
            open_atlas(out)
    simulate(out, **SMALL)
    assert objects(bucket, "a.zarr") == files(tmp_path / "a.zarr")
    assert [key for key in bucket.keys("") if not key.startswith("a.zarr/")] == []
    assert place(out).exists()
