"""The entry points of `ray job submit`: the command's options, messages and exit codes, on the cluster's workers.

Here they run in the process of the tests and use its Ray, one of a machine. That a script runs as a process of its own
is seen in test_cfgen_dist/training/test_on_ray.py, and what `ray job submit` makes of them in test_job_submit.py.
"""

import runpy
import sys
from pathlib import Path

import pytest

from data_loaders import open_atlas

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@pytest.fixture
def job(ray_local, monkeypatch):
    """job(name, *arguments): exit code of a job script."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(JOBS / f"{name}.py"), run_name="__main__")
        return ended.value.code

    return run


def test_a_job_generates(job, tiny_run, tmp_path, capsys):
    assert job("generate", tiny_run, tmp_path / "cells.zarr", "--cells", 100, "--shard-size", 40, "--workers", 1) == 0
    assert "100 cells" in capsys.readouterr().out
    assert open_atlas(tmp_path / "cells.zarr").n_cells == 100


@pytest.mark.parametrize("name", ["generate", "augment", "evaluate", "translate"])
def test_jobs_refuse_as_the_commands_do(job, name, tiny_run, tiny_atlas, tmp_path, capsys):
    arguments, messages = {
        "generate": ([tiny_run, tmp_path / "cells.zarr", "--cells", -1], ["number of cells is -1, expected 1 to"]),
        "augment": (
            [tiny_run, tiny_atlas, tmp_path / "cells.zarr", "--total", 5],
            ["total is 5, expected more than the"],
        ),
        "evaluate": (
            [tiny_atlas, tiny_atlas, "--out", tmp_path / "report"],
            ["", "these are the real cells themselves"],
        ),
        "translate": (
            [tiny_run, tiny_atlas, tmp_path / "cells.zarr", "--to", "dono=d"],
            ["to: the model was not trained on 'dono', did you mean 'donor'?"],
        ),
    }[name]
    assert job(name, *arguments) == 2
    error = capsys.readouterr().err
    assert f"error: {messages[0]}" in error
    assert messages[-1] in error
    assert list(tmp_path.iterdir()) == []
