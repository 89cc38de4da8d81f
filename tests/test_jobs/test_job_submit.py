"""`ray job submit` for real, to a head of our own that wants a token: the cluster works on the folder it is sent."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import TINY

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import load_config
from data_loaders import open_atlas

ROOT = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SETTINGS = [word for key, value in TINY.items() for word in (f"--{key}", str(value).strip("[]").replace(" ", ""))]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head():
    """Address of a dashboard, and the environment of those who have its token."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # paths of sockets are short
    gcs, dashboard, agent = free_ports(3)
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    options = [
        "--head", "--block", "--disable-usage-stats", f"--port={gcs}", f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}", "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}", "--num-cpus=2", f"--object-store-memory={128 << 20}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    process = subprocess.Popen([*RAY, "start", *options], env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while status(f"{address}/api/version") is None:
            assert process.poll() is None
            assert time.monotonic() < until, "no dashboard after two minutes"
            time.sleep(0.5)
        yield address, environment
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def status(url):
    """Status of a request without a token; None where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def submit(head, *entry_point):
    """`ray job submit` with the repository as working folder."""
    address, environment = head
    command = [*RAY, "job", "submit", "--address", address, "--working-dir", ROOT]
    command += ["--runtime-env-json", '{"excludes": [".venv", ".git", "site", "demo"]}', "--", "python", *entry_point]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=500)
    return done.returncode, done.stdout + done.stderr


def test_whoever_lacks_the_token_gets_nothing(head):
    assert status(f"{head[0]}/api/jobs/") == 401


def test_a_training_on_two_workers(head, tiny_atlas, tmp_path):
    train = ["jobs/train.py", tiny_atlas, "--out", tmp_path / "run", "--workers", 2, *SETTINGS]
    code, output = submit(head, *train)
    assert code == 0, output
    assert f"{tmp_path}/run/bundle" in output
    assert "2 workers started" in output, "progress comes back"
    assert CFGen.load(tmp_path / "run").provenance["training"]["val_nll"] > 0
    code, output = submit(head, *train)
    assert code == 1, "the client's code for a job that failed; the job's was 2"
    assert "holds a run already: --resume continues it" in output
    code, output = submit(
        head, "jobs/generate.py", tmp_path / "run", tmp_path / "cells.zarr", "--cells", 100, "--shard-size", 40
    )
    assert code == 0, output
    assert open_atlas(tmp_path / "cells.zarr").n_cells == 100


def test_a_search(head, tiny_atlas, tmp_path):
    code, output = submit(head, "jobs/tune.py", tiny_atlas, "--out", tmp_path / "run", "--trials", 2, *SETTINGS)
    assert code == 0, output
    assert f"{tmp_path}/run/best.yaml" in output
    assert "autoencoder trial 0 (1 of 1): done" in output
    assert load_config(tmp_path / "run" / "best.yaml").autoencoder.hidden == TINY["autoencoder.hidden"]
