"""Evaluations in a bucket: the numbers of those on a disk, parts that outlive a kill, a record that comes last."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from buckets import Line

from cfgen_dist.cli import main
from cfgen_dist.evaluation import evaluate
from cfgen_dist.evaluation.folder import Contents, check_new, new_folder
from cfgen_dist.evaluation.outcome import parts_of
from data_loaders import simulate
from data_loaders.errors import BadInput
from data_loaders.storage import opened, place

OPTIONS = {"sets": 2, "floor_sets": 2, "control": True, "embedding": "pca", "shard_size": 100}
WORDS = ["--sets", "2", "--floor-sets", "2", "--control", "--embedding", "pca", "--shard-size", "100"]
OURS = Contents("record.json", ("page.html",), "test")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Real cells, and others of the same law."""
    folder = tmp_path_factory.mktemp("stores")
    for name, seed in (("real", 1), ("made", 2)):
        simulate(folder / f"{name}.zarr", cells=400, genes=60, types=2, donors=2, density=0.3, seed=seed)
    return folder


@pytest.fixture(scope="module")
def expected(stores, tmp_path_factory):
    out = tmp_path_factory.mktemp("disk") / "report"
    return evaluate(stores / "real.zarr", stores / "made.zarr", out, **OPTIONS), out


@pytest.fixture
def there(bucket, stores):
    """Addresses of the stores and of the report."""
    bucket.put_folder("stores", stores)
    return [f"{bucket.url}/{name}" for name in ("stores/real.zarr", "stores/made.zarr", "report")]


def numbers(result):
    """What does not say where cells are, or when."""
    return {key: value for key, value in result.items() if key not in ("seconds", "provenance", "copies", "notes")}


@pytest.mark.heavy
def test_a_report_in_a_bucket(bucket, there, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real, made, out = there
    assert main(["evaluate", real, made, "--out", out, *WORDS]) == 0
    assert f"Report: {out}/report.html" in capsys.readouterr().out
    assert [key for key in bucket.keys("report") if not key.startswith("report/")] == []
    assert bucket.keys("report/") == sorted(f"report/{file.name}" for file in expected[1].iterdir())
    found, local = (
        json.loads(bucket.read("report/metrics.json")),
        json.loads((expected[1] / "metrics.json").read_text()),
    )
    del found["checksum"], local["checksum"]
    assert numbers(found) == numbers(local)
    assert found["provenance"]["real"]["path"] == real
    assert b"</html>" in bucket.read("report/report.html")
    assert list(tmp_path.iterdir()) == []
    puts = bucket.client.head_object(Bucket=bucket.name, Key="report/metrics.json")["LastModified"]
    assert evaluate(real, made, out, resume=True, **OPTIONS)["verdict"] == found["verdict"]
    assert bucket.client.head_object(Bucket=bucket.name, Key="report/metrics.json")["LastModified"] == puts
    bucket.put("report/mine.txt", b"notes")
    assert main(["evaluate", real, made, "--out", out, *WORDS]) == 2
    assert (
        f"{out}: holds 'mine.txt'; expected a new folder, or that of an earlier evaluation" in capsys.readouterr().err
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    "where", ["report/report.html", pytest.param("report.parts/set-generated-0.npz", marks=pytest.mark.slow)]
)
def test_a_killed_evaluation_is_finished_by_whoever_has_the_bucket(
    bucket, there, expected, tmp_path, monkeypatch, where
):
    real, made, out = there
    process = None

    def kill(line):
        if line.startswith("PUT") and where in line:
            os.kill(process.pid, signal.SIGKILL)
            return "refuse"
        return None

    with Line(bucket.endpoint) as line:
        line.fail = kill
        environ = os.environ | {"AWS_ENDPOINT_URL": line.url, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-m", "cfgen_dist", "evaluate", real, made, "--out", out, *WORDS, "--workers", "1"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE)
        process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert "report/metrics.json" not in bucket.keys("report/")
    parts = bucket.keys("report.parts/")
    assert "report.parts/space.json" in parts
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="holds an interrupted evaluation: `resume=True` finishes it"):
        evaluate(real, made, out, **OPTIONS)
    result = evaluate(real, made, out, resume=True, **OPTIONS)
    assert numbers(result) == numbers(expected[0])
    assert bucket.keys("report.parts/") == []
    assert "report/metrics.json" in bucket.keys("report/")


@pytest.mark.slow
def test_actors_evaluate_in_a_bucket(ray_local, bucket, there, expected):
    real, made, out = there
    result = evaluate(real, made, out, ray="local", workers=2, **OPTIONS)
    assert result["metrics"].keys() == expected[0]["metrics"].keys()
    for name, row in result["metrics"].items():
        np.testing.assert_allclose(row["generated"]["mean"], expected[0]["metrics"][name]["generated"]["mean"], 1e-9)


def test_parts_stay_when_the_bucket_fails_and_go_when_the_input_is_wrong(bucket):
    out = f"{bucket.url}/report"
    bucket.put("report.parts/part.json", b"{}")
    with pytest.raises(opened.NoAnswer), parts_of(out, {"a": 1}, True, "evaluation"):
        raise opened.NoAnswer("s3://...: cannot be read")
    assert bucket.keys("report.parts/") == ["report.parts/note.json", "report.parts/part.json"]
    with pytest.raises(BadInput), parts_of(out, {"a": 1}, True, "evaluation"):
        raise BadInput("no counts")
    assert bucket.keys("report.parts/") == []


def test_the_record_of_a_folder_goes_up_last(bucket):
    """Whoever fails before leaves a folder without one, which may be written again; one with a record may not."""
    out = f"{bucket.url}/study"

    def write(content):
        with new_folder(out, OURS) as folder:
            (folder / "page.html").write_text(content)
            (folder / "record.json").write_text(content)

    with Line(bucket.endpoint) as line, pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "RETRY", {"max_retries": 0})
        line.fail = lambda request: "500" if request.startswith("PUT") and "record.json" in request else None
        patch.setenv("AWS_ENDPOINT_URL", line.url)
        patch.setattr("data_loaders.storage.bucket.PAUSE", 0.0)
        with pytest.raises(opened.NoAnswer, match=r"record.json: cannot be written"):
            write("one")
    assert bucket.keys() == ["study/page.html"]
    check_new(out, OURS)
    write("two")
    assert (bucket.read("study/page.html"), bucket.read("study/record.json")) == (b"two", b"two")
    with pytest.raises(BadInput, match=r"study: exists already; expected an address where nothing is"):
        write("three")
    bucket.put("other/notes", b"")
    with pytest.raises(BadInput, match=r"other: holds 'notes'; expected an address where nothing is"):
        check_new(f"{bucket.url}/other", OURS)
    assert place(out).names() == ["page.html", "record.json"]
