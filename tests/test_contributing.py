"""The worked examples of CONTRIBUTING.md, applied to a copy of the code as they stand and run by their own tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ("likelihood", "source format", "metric", "command", "solver")


def blocks(title):
    """The code blocks of one example: (language, first line, the rest) of each."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(rf"^### Add a {title}$(.*?)(?=^##|^\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"CONTRIBUTING.md has no section '### Add a {title}'"
    return re.findall(r"^```(\w+)\n(.*?)\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


def change(file, diff):
    """Apply a diff without line numbers: each run of lines before and after must occur exactly once in the file.

    A run ends where a line that was added is followed by one that was there before.
    """
    text = file.read_text()
    runs = re.findall(r"(?:^[ -].*\n)*(?:^\+.*\n)*", diff, re.MULTILINE)
    for run in filter(None, runs):
        lines = run.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"{file.name} has {text.count(before)} times the lines\n{before}"
        text = text.replace(before, after)
    file.write_text(text)


@pytest.mark.heavy
@pytest.mark.parametrize("title", EXAMPLES)
def test_example_works_as_it_stands(title, tmp_path):
    for package in ("cfgen_dist", "data_loaders"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    tests, touched = [], []
    for language, first, rest in blocks(title):
        name = re.fullmatch(r"(?:#|---) (\S+)", first)[1]
        file = tmp_path / name
        touched.append(name)
        if language == "diff":
            change(file, rest)
            continue
        assert language == "python"
        assert not file.exists(), f"{name} is there already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rest)
        if name.startswith("tests/"):
            tests.append(name)
    assert len(tests) == 1, f"the example of a {title} has {len(tests)} tests, expected one"
    run("ruff", "check", "--quiet", "--no-cache", "--config", ROOT / "pyproject.toml", *touched, cwd=tmp_path)
    run("pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=tmp_path)


def run(module, *args, cwd):
    """Run a module of this Python on the copy, and show what it printed where it fails."""
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    command = [sys.executable, "-m", module, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command[2:])}\n{done.stdout}\n{done.stderr}"
