"""`ray job submit --working-dir .` ships the jobs, not atlases, runs or the environment (`.rayignore`)."""

import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.heavy  # imports Ray
def test_atlases_and_environments_are_left_out(tmp_path):
    packaging = pytest.importorskip("ray._private.runtime_env.packaging")
    folder = tmp_path / "work"
    for name in (
        "jobs/train.py", "cfgen_dist/cli/train.py", "atlas.zarr/X/data/c/0", "data/deep.zarr/zarr.json",
        "made.zarr.parts/0.npz", "counts.h5ad", "data/counts.h5", ".venv/bin/python", ".git/HEAD",
        "runs/a/bundle/card.json",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    shutil.copy(ROOT / ".rayignore", folder)
    packaging.create_package(str(folder), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        shipped = {name for name in package.namelist() if not name.endswith("/")}
    assert shipped - {".rayignore"} == {"jobs/train.py", "cfgen_dist/cli/train.py"}
