"""From nothing: the steps of the Dockerfile in a new environment, then the lines of docs/cluster.md in it.

There is no Docker where tests run: its COPY and pip lines are done in a new virtual environment and folder, its apt
line is not. What runs has nothing but the installed package, the folder `jobs`, and addresses in a bucket.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SETTINGS = [word for key, value in TINY.items() for word in (f"--{key}", str(value).strip("[]").replace(" ", ""))]
BUCKET = "cells"
HEADING = "## A job, line by line"


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def steps(text):
    """(instruction, words) of a Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", text)
    return [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]


def lines_of_the_page():
    """The shell lines of the section, comments left out."""
    section = (ROOT / "docs" / "cluster.md").read_text().partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    text = re.sub(r"\\\n\s*", " ", "\n".join(blocks))
    return [re.sub(r"\s{2,}#.*", "", line) for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """(folder of the app, environment variables) as the Dockerfile leaves them; CFGEN_TEST_IMAGE: one to use again."""
    kept_image = os.environ.get("CFGEN_TEST_IMAGE")
    root = Path(kept_image) if kept_image else tmp_path_factory.mktemp("image")
    app, home = root / "app", root / "home"
    made = (app / "jobs").is_dir()
    if not made:
        app.mkdir(parents=True)
        home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "REQUESTS_", "HTTP"))}
    kept |= {key: os.environ[key] for key in ("LANG", "TMPDIR") if key in os.environ}
    environment = kept | {"HOME": str(home), "PATH": f"{root / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
    for name, words in [] if made else steps((ROOT / "Dockerfile").read_text()):
        if name == "COPY":
            *sources, target = words.split()
            for source in sources:
                to = app if target == "./" else app / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, to)
        elif name == "RUN" and not words.startswith(("apt-get", "useradd")):
            done = subprocess.run(["bash", "-ec", words], cwd=app, env=environment, capture_output=True, text=True)
            if "No matching distribution" in done.stderr or "Failed to establish" in done.stderr:
                pytest.skip(f"no package index: {done.stderr[-300:]}")
            assert done.returncode == 0, done.stderr[-2000:]
    return app, environment


def run(image, command, **variables):
    app, environment = image
    return subprocess.run(
        ["bash", "-ec", command], cwd=app, env=environment | variables, capture_output=True, text=True, timeout=900
    )


def test_the_image_has_the_package_and_nothing_of_this_repository(image):
    app, _ = image
    assert sorted(path.name for path in app.iterdir()) == ["LICENSE", "constraints.txt", "jobs"]
    found = run(image, "python -c 'import cfgen_dist, data_loaders; print(cfgen_dist.__file__)'")
    assert "site-packages" in found.stdout, found.stderr
    assert run(image, "cfgen-dist train --help").returncode == 0
    missing = run(image, "python -c 'import ray, obstore, tiledbsoma, hdf5plugin, tensorboard, optuna, ray.dashboard'")
    assert missing.returncode == 0, missing.stderr
    assert run(image, "pip check").returncode == 0


def test_the_image_copies_what_is_there_and_runs_as_a_user_of_its_own():
    done = steps((ROOT / "Dockerfile").read_text())
    allowed = set((ROOT / ".dockerignore").read_text().split())
    for name, words in done:
        for source in words.split()[:-1] if name == "COPY" else ():
            assert (ROOT / source).exists()
            assert f"!{source}" in allowed, f"{source} is not sent to Docker"
    names = [name for name, _ in done]
    assert done[names.index("USER")][1] == "cfgen"
    assert names.index("USER") > names.index("COPY")


@pytest.fixture
def bucket(tiny_atlas, monkeypatch):
    """(variables that reach a bucket, its objects): `s3://BUCKET` with an atlas in it."""
    import boto3
    import moto.server

    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    for path in tiny_atlas.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"atlas.zarr/{path.relative_to(tiny_atlas)}")

    def objects(prefix):
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {entry["Key"] for entry in found}

    yield access | {"AWS_ENDPOINT_URL": endpoint}, objects
    server.stop()


def test_the_lines_of_the_page(image, bucket):
    """Head, token, submit, follow, stop: as they are printed, but for ports, cores and the names of a machine."""
    variables, objects = bucket
    variables |= {"RAY_raylet_start_wait_time_s": "600"}  # a busy machine takes longer than Ray waits
    gcs, dashboard, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets are short
    here = (
        f"--port={gcs} --dashboard-port={dashboard} --dashboard-agent-listen-port={agent} --temp-dir={folder} "
        f"--node-ip-address=127.0.0.1 --num-cpus=2 --object-store-memory={128 << 20}"
    )
    lines = [
        line.replace("--port=6379", here).replace("8265", str(dashboard)).replace("s3://BUCKET", f"s3://{BUCKET}")
        for line in lines_of_the_page()
    ]
    lines = [f"{line} {shlex.join(SETTINGS)}" if "jobs/train.py" in line else line for line in lines]
    assert any("ray start --head --block" in line for line in lines)
    assert sum("ray job submit" in line for line in lines) == 2
    script = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT", *lines]
    app, environment = image
    process = subprocess.Popen(
        ["bash", "-c", "\n".join(script)], cwd=app, env=environment | variables, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=1500)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(2)
        shutil.rmtree(folder, ignore_errors=True)
    assert process.returncode == 0, output
    assert "2 workers started" in output, output
    assert "runs/first/bundle" in output, output
    assert "Job 'first' succeeded" in output, output
    assert "Job 'second' was stopped" in output, output
    assert "runs/first/bundle/card.json" in objects("runs/first/bundle/"), "the run is in the bucket"
    assert not list(app.glob("s3:*")), "and nothing of it in the folder"
    token = Path(environment["HOME"]) / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0, "nobody else reads the token"
