"""The entry points of `ray job submit`: the command's options, messages and exit codes, on the cluster's workers."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_loaders import open_atlas

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def job(name, *arguments):
    """Run a job script as a cluster would, without one: it starts its own."""
    command = [sys.executable, JOBS / f"{name}.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=JOBS.parent, timeout=300)


def test_a_job_generates(tiny_run, tmp_path):
    done = job("generate", tiny_run, tmp_path / "cells.zarr", "--cells", 100, "--shard-size", 40, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "100 cells" in done.stdout
    assert open_atlas(tmp_path / "cells.zarr").n_cells == 100


@pytest.mark.parametrize("name", ["generate", "augment", "evaluate"])
def test_jobs_refuse_as_the_commands_do(name, tiny_run, tiny_atlas, tmp_path):
    if name == "generate":
        done = job(name, tiny_run, tmp_path / "cells.zarr", "--cells", -1)
        assert "error: number of cells is -1, expected 1 to" in done.stderr
    elif name == "evaluate":
        done = job(name, tiny_atlas, tiny_atlas, "--out", tmp_path / "report")
        assert "error: " in done.stderr
        assert "these are the real cells themselves" in done.stderr
    else:
        done = job(name, tiny_run, tiny_atlas, tmp_path / "cells.zarr", "--total", 5)
        assert "error: total is 5, expected more than the" in done.stderr
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
