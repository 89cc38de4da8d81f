"""The SLURM script against stand-ins of `srun`, `scontrol`, `ray` and `cfgen-dist` that note how they were called."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sh"
STANDINS = {
    "scontrol": 'echo "scontrol $*" >> $NOTES; if [ "$1" = show ]; then echo m1; echo m2; echo m3; fi',
    # Runs what it is given here, as srun does on the machine.
    "srun": 'echo "srun $*" >> $NOTES; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "hostname": "echo 127.0.0.1 fe80::1",
    "ray": 'echo "ray token=${#RAY_AUTH_TOKEN} mode=$RAY_AUTH_MODE $*" >> $NOTES; exec sleep 60',
    "cfgen-dist": 'echo "cfgen-dist $*" >> $NOTES; trap "echo saved >> $NOTES; exit 3" TERM; '
    'for i in $(seq ${SECONDS_OF_WORK:-1}0); do sleep 0.1; done; exit ${CODE:-0}',
}  # fmt: skip


def listen_in_range():
    """A socket that listens where the head of the job would, which as a stand-in does not, and the job's number."""
    for number in range(os.getpid() % 19_000, 20_000):
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", 20_000 + number))
            listener.listen()
            return listener, number
        except OSError:
            listener.close()
    raise AssertionError("no free port")


@pytest.fixture
def job(tmp_path):
    """job(*words, **variables): the process of a job on three machines, and its notes."""
    notes, venv = tmp_path / "notes", tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text(f'export PATH="{venv}:$PATH"\n')
    (venv / "python").symlink_to(sys.executable)
    for name, body in STANDINS.items():
        (venv / name).write_text(f"#!/bin/bash\n{body}\n")
        (venv / name).chmod(0o755)
    listener, number = listen_in_range()
    started = []

    def start(*words, **variables):
        port = 20000 + number
        environment = os.environ | {
            "NOTES": str(notes), "CFGEN_VENV": str(tmp_path / "venv"), "SLURM_JOB_ID": str(number), "CFGEN_PAUSE": "0",
            "SLURM_JOB_NODELIST": "m[1-3]", "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_PER_TASK": "a100:1",
        }  # fmt: skip
        process = subprocess.Popen(
            ["bash", SCRIPT, *words], env=environment | variables, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process, notes, port

    yield start
    listener.close()
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()


def test_a_node_for_each_task_then_the_driver(job):
    process, notes, port = job("s3://cells/hlca.zarr", "s3://cells/runs/a", "--config", "hlca")
    assert process.wait(60) == 0, process.stderr.read()
    lines = notes.read_text().splitlines()
    rays = [line for line in lines if line.startswith("ray ")]
    assert len(rays) == 3
    assert all("token=64 mode=token start --block" in line and "--num-cpus=16 --num-gpus=1" in line for line in rays)
    assert f"--head --port={port} --dashboard-host=127.0.0.1" in rays[0]
    assert [f"--address=127.0.0.1:{port}" in line for line in rays] == [False, True, True]
    nodes = [line for line in lines if line.startswith("srun") and "ray start" in line]
    assert [re.search(r"--nodelist=(\w+)", line)[1] for line in nodes] == ["m1", "m2", "m3"]
    driver = next(line for line in lines if line.startswith("cfgen-dist"))
    assert driver == (
        f"cfgen-dist train s3://cells/hlca.zarr --out s3://cells/runs/a --resume --ray 127.0.0.1:{port} --workers 3 "
        "--gpus-per-worker 1 --config hlca"
    )


def test_without_gpus_workers_take_the_cores(job):
    process, notes, _ = job("/data/a.zarr", "/data/run", SLURM_GPUS_PER_TASK="")
    assert process.wait(60) == 0, process.stderr.read()
    assert "--workers 3 --cpus-per-worker 16" in notes.read_text()


def test_the_code_of_the_driver_is_that_of_the_job(job):
    process, _, _ = job("/data/a.zarr", "/data/run", CODE="2")
    assert process.wait(60) == 2


def test_a_notice_lets_the_driver_save_and_queues_the_job_again(job):
    process, notes, _ = job("/data/a.zarr", "/data/run", SECONDS_OF_WORK="30")
    until = time.monotonic() + 30
    while "cfgen-dist train" not in (notes.read_text() if notes.exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.1)
    threading.Timer(0.3, process.terminate).start()
    assert process.wait(30) == 0
    lines = notes.read_text().splitlines()
    assert "saved" in lines
    assert any(line.startswith("scontrol requeue") for line in lines)


def test_words_that_are_missing(job):
    process, notes, _ = job("/data/a.zarr")
    assert process.wait(30) == 2
    assert "usage: sbatch" in process.stderr.read()
    assert not notes.exists()


def test_sbatch_reads_one_task_a_machine():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    assert options["signal"] == "B:TERM@120"
    assert "requeue" in options
