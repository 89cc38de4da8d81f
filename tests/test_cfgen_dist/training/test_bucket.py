"""A run in a bucket: the weights of one on a disk, through kills, from whatever machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from buckets import Line
from conftest import TINY

from cfgen_dist.bundle import CFGen
from cfgen_dist.cli import main
from cfgen_dist.config import load_config
from cfgen_dist.training.cards import describe
from cfgen_dist.training.run import train
from cfgen_dist.training.saves import Saver, restore
from cfgen_dist.verification.run import verify
from data_loaders.errors import BadInput
from data_loaders.storage import place

OFTEN = {"checkpoint_every_n_steps": 2}


def objects(bucket, folder):
    """Key from here → bytes of all objects of a folder of a bucket."""
    return {key.removeprefix(f"{folder}/"): bucket.read(key) for key in bucket.keys(f"{folder}/")}


def weights(bundle):
    """The files of weights of a bundle on a disk."""
    return {file.name: file.read_bytes() for file in Path(bundle).glob("*.safetensors")}


def same_weights(bucket, run, expected):
    """Whether a bundle in a bucket has the weights of one on a disk."""
    found = {name: content for name, content in objects(bucket, f"{run}/bundle").items() if name != "card.json"}
    return found == weights(expected / "bundle")


@pytest.fixture
def atlas(bucket, tiny_atlas):
    """Address of the tiny atlas."""
    bucket.put_folder("atlas.zarr", tiny_atlas)
    return f"{bucket.url}/atlas.zarr"


@pytest.mark.heavy
def test_train_in_a_bucket(atlas, bucket, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bucket.put("settings.yaml", (tiny_run / "config.yaml").read_bytes())
    out = f"{bucket.url}/run"
    assert main(["train", atlas, "--out", out, "--config", f"{bucket.url}/settings.yaml"]) == 0
    assert same_weights(bucket, "run", tiny_run)
    found = objects(bucket, "run")
    for name in ("config.yaml", "autoencoder/weights.safetensors", "flow/weights.safetensors", "flow/metrics.csv"):
        assert name in found
    assert found["config.yaml"] == (tiny_run / "config.yaml").read_bytes()
    latents = {name: content for name, content in found.items() if name.startswith("latents.zarr/")}
    assert latents == {
        file.relative_to(tiny_run).as_posix(): file.read_bytes()
        for file in (tiny_run / "latents.zarr").rglob("*")
        if file.is_file()
    }
    assert not [name for name in bucket.keys("") if name.endswith((".lock", ".partial")) or ".parts" in name]
    assert list(tmp_path.iterdir()) == [], "nothing here"
    assert describe(out) == describe(f"{out}/bundle")
    assert describe(out)["labels"] == describe(tiny_run)["labels"]
    assert CFGen.load(out).digest == CFGen.load(f"{out}/bundle").digest
    assert verify(out)["kind"] == "run"
    saved = next(name for name in bucket.keys("run/flow/saved/"))
    content = bucket.read(saved)
    bucket.put(saved, content[:-1] + b"?")
    with pytest.raises(BadInput, match="is damaged, its SHA-256 is not its name"):
        verify(out)
    bucket.put(saved, content)
    capsys.readouterr()
    assert main(["train", atlas, "--out", out]) == 2
    assert capsys.readouterr().err.startswith(f"error: {out} holds a run already: --resume continues it")
    assert main(["train", atlas, "--out", out, "--resume"]) == 0
    bucket.put("other/notes.txt", b"of somebody")
    assert main(["train", atlas, "--out", f"{bucket.url}/other"]) == 2
    assert "other exists and is not a run" in capsys.readouterr().err


@pytest.mark.heavy
def test_a_bundle_is_saved_and_loaded(bucket, tiny_run):
    model = CFGen.load(tiny_run)
    bucket.put("copy/flow.safetensors", b"half of one")  # left by a killed command
    address = f"{bucket.url}/copy"
    with pytest.raises(BadInput, match=r"no card\.json there"):
        CFGen.load(address)
    model.save(address)
    assert objects(bucket, "copy") == {
        file.name: file.read_bytes() for file in (tiny_run / "bundle").iterdir() if file.is_file()
    }
    assert CFGen.load(address).digest == model.digest
    with pytest.raises(BadInput, match="exists already"):
        model.save(address)


def started(arguments, endpoint, folder):
    """The command line in a process of its own, that has nothing but the bucket."""
    folder.mkdir(exist_ok=True)
    environ = os.environ | {"AWS_ENDPOINT_URL": endpoint, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "cfgen_dist", *map(str, arguments)]
    root = Path(__file__).resolve().parents[3]
    environ["PYTHONPATH"] = str(root)
    return subprocess.Popen(words, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)


def killed_at(line, contains, number, arguments, folder):
    """Start a training and kill it when it sends the so many-th request that contains a text."""
    seen = []

    def fail(request):
        if request.startswith("PUT") and contains in request:
            seen.append(request)
            if len(seen) >= number:
                return 30.0
        return None

    line.fail = fail
    process = started(arguments, line.url, folder)
    try:
        end = time.monotonic() + 600
        while len(seen) < number:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end, line.requests[-20:]
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


def resumed(bucket, arguments, folder):
    """Go on with it from elsewhere."""
    process = started([*arguments, "--resume"], bucket.endpoint, folder)
    assert process.wait() == 0, process.stderr.read()


def drill(bucket, atlas, tiny_run, tmp_path, contains, number):
    """Kill a training in the middle of a request, look at what is there, and let another one finish."""
    out = f"{bucket.url}/run"
    bucket.put("settings.yaml", (tiny_run / "config.yaml").read_bytes())
    arguments = ["train", atlas, "--out", out, "--config", f"{bucket.url}/settings.yaml"]
    arguments += ["--checkpoint_every_n_steps", 2]
    with Line(bucket.endpoint) as line:
        killed_at(line, contains, number, arguments, tmp_path / "first")
    with pytest.raises(BadInput, match=r"no card.json there|has not finished"):
        CFGen.load(out)
    resumed(bucket, arguments, tmp_path / "second")
    assert same_weights(bucket, "run", tiny_run)
    assert not [name for name in bucket.keys("") if name.endswith((".lock", ".partial")) or ".parts" in name]


@pytest.mark.slow
@pytest.mark.heavy
def test_killed_while_a_checkpoint_goes_up(atlas, bucket, tiny_run, tmp_path):
    drill(bucket, atlas, tiny_run, tmp_path, "run/flow/saved.json", 3)
    record = json.loads(bucket.read("run/flow/saved.json"))
    assert len(record["saves"]) == 2
    assert record["saves"][0]["step"] == 60
    named = {facts["sha256"] for save in record["saves"] for facts in save["files"].values()}
    assert {key.rpartition("/")[2] for key in bucket.keys("run/flow/saved/")} == named, "no others are left"


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("contains", "number"),
    [
        ("run/config.yaml", 1),
        ("run/autoencoder/saved/", 2),
        ("run/autoencoder/saved/", 7),
        ("run/autoencoder/saved.json", 2),
        ("run/autoencoder/refit/saved/", 1),
        ("run/autoencoder/weights.safetensors", 2),
        ("run/latents.zarr.parts/part-000000.npz", 1),
        ("run/latents.zarr/X/c", 1),
        ("run/latents.zarr/zarr.json", 1),
        ("run/flow/saved/", 1),
        ("run/flow/saved/", 9),
        ("run/flow/weights.safetensors", 2),
        ("run/bundle/flow.safetensors", 1),
        ("run/bundle/card.json", 1),
    ],
)
def test_killed_at_any_upload(atlas, bucket, tiny_run, tmp_path, contains, number):
    drill(bucket, atlas, tiny_run, tmp_path, contains, number)


@pytest.mark.slow
@pytest.mark.heavy
def test_a_line_that_fails_and_cuts(atlas, bucket, tiny_run, tmp_path, monkeypatch):
    # A third fail: with more, one request fails nine times running now and then, and is rightly given up.
    kinds = [each for kind in ("500", "cut", "503", "lost", "refuse") for each in (kind, None, None)] + [0.3, None]
    with Line(bucket.endpoint) as line:
        line.fail = lambda request: kinds[len(line.requests) % len(kinds)]
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        train(atlas, f"{bucket.url}/run", load_config(overrides=TINY | OFTEN))
    assert same_weights(bucket, "run", tiny_run)


def stage(folder, step):
    """A folder like that of a stage."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("last.ckpt", "best.ckpt"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(name.encode() + bytes(1000) + str(step if name == "last.ckpt" else 0).encode())
    (folder / "metrics.csv").write_text(f"step\n{step}\n")


def test_saves_go_up_one_after_the_other_and_two_are_kept(bucket, tmp_path):
    remote = place(f"{bucket.url}/run")
    saver = Saver(tmp_path, remote)
    for step in (2, 4, 6):
        stage(tmp_path / "flow", step)
        saver.take(tmp_path / "flow", step)
        saver.wait()
    assert restore(remote / "flow", tmp_path / "copy") == 6
    assert (tmp_path / "copy" / "last.ckpt").read_bytes() == (tmp_path / "flow" / "last.ckpt").read_bytes()
    assert (tmp_path / "copy" / "last.ckpt.sha256").is_file()
    assert (tmp_path / "copy" / "metrics.csv").is_file()
    assert len(bucket.keys("run/flow/saved/")) == 5, "of two saves, and the best of both is the same"
    assert not list((tmp_path / ".going-up").iterdir())
    record = json.loads(bucket.read("run/flow/saved.json"))
    bucket.put(f"run/flow/saved/{record['saves'][0]['files']['last.ckpt']['sha256']}", b"damaged")
    assert restore(remote / "flow", tmp_path / "older") == 4
    bucket.client.delete_object(
        Bucket=bucket.name, Key=f"run/flow/saved/{record['saves'][1]['files']['last.ckpt']['sha256']}"
    )
    with pytest.raises(BadInput, match="no save that it names is whole; without that object the stage starts again"):
        restore(remote / "flow", tmp_path / "none")
    for wrong in (b"{", b"[]", b'{"saves": []}', json.dumps(record | {"saves": record["saves"][:1]}).encode()):
        bucket.put("run/flow/saved.json", wrong)
        with pytest.raises(BadInput, match=r"saved\.json"):
            restore(remote / "flow", tmp_path / "wrong")
    assert restore(remote / "nothing", tmp_path / "nothing") is None


def test_of_two_that_save_one_gives_up(bucket, tmp_path):
    savers = [Saver(tmp_path / name, place(f"{bucket.url}/run")) for name in "ab"]
    for name, saver in zip("ab", savers, strict=True):
        stage(tmp_path / name / "flow", 2)
        saver.take(tmp_path / name / "flow", 2)
        saver.wait()
    savers[1].take(tmp_path / "b" / "flow", 4)
    savers[1].wait()
    savers[0].take(tmp_path / "a" / "flow", 4)
    with pytest.raises(BadInput, match="another command has saved there meanwhile"):
        savers[0].wait()
    with pytest.raises(BadInput, match="another command"):
        savers[0].take(tmp_path / "a" / "flow", 6)


def test_training_does_not_wait_for_a_slow_bucket(bucket, tmp_path, monkeypatch):
    with Line(bucket.endpoint, latency=0.3, upload_rate=20_000) as line:
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
        saver = Saver(tmp_path, place(f"{bucket.url}/run"))
        began = time.monotonic()
        for step in range(1, 21):
            stage(tmp_path / "flow", step)
            saver.take(tmp_path / "flow", step)
        assert time.monotonic() - began < 0.3
        saver.wait()
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    assert restore(place(f"{bucket.url}/run") / "flow", tmp_path / "copy") == 20, "the last is there"
    steps = [save["step"] for save in json.loads(bucket.read("run/flow/saved.json"))["saves"]]
    assert len(steps) == 2
    assert steps[1] < 19, "those that were overtaken were left out"


def test_a_bucket_that_is_away_ends_no_training(bucket, tmp_path):
    remote = place(f"{bucket.url}/run")
    saver = Saver(tmp_path, place("s3://there-is-none/run"))
    stage(tmp_path / "flow", 2)
    saver.take(tmp_path / "flow", 2)
    with pytest.raises(BadInput, match=r"the save of step 2 is not in the bucket \(.*no such bucket"):
        saver.wait()
    saver.remote = remote
    saver.take(tmp_path / "flow", 4)
    saver.wait()
    assert restore(remote / "flow", tmp_path / "copy") == 4


@pytest.mark.slow
@pytest.mark.heavy
def test_workers_of_ray_share_no_folder(ray_local, atlas, bucket, tiny_run, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    out = f"{bucket.url}/run"
    with caplog.at_level("INFO", logger="cfgen_dist"):
        train(atlas, out, load_config(overrides=TINY | OFTEN), ray="auto", workers=2)
    assert "2 workers started" in caplog.text
    assert "model written to s3://" in caplog.text
    assert CFGen.load(out).genes == CFGen.load(tiny_run).genes
    assert b"2 workers started" in bucket.read("run/train.log")
    assert list(tmp_path.iterdir()) == [], "nothing here"
    assert not [name for name in bucket.keys("") if name.endswith((".lock", ".partial")) or ".parts" in name]
    bucket.client.delete_object(Bucket=bucket.name, Key="run/bundle/card.json")
    bucket.client.delete_object(Bucket=bucket.name, Key="run/flow/weights.safetensors")
    train(atlas, out, resume=True, ray="auto", workers=1)
    assert CFGen.load(out).genes == CFGen.load(tiny_run).genes
