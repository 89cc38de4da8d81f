"""What `from data_loaders import ...` offers."""

import subprocess
import sys
from pathlib import Path

import data_loaders


def test_every_name_is_there():
    assert dir(data_loaders) == data_loaders.__all__ == sorted(data_loaders._HOME)
    for name in data_loaders.__all__:
        assert getattr(data_loaders, name).__name__ == name


def test_type_checkers_see_every_name():
    text = Path(data_loaders.__file__).read_text()
    for name, home in data_loaders._HOME.items():
        line = next(line for line in text.splitlines() if line.startswith(f"    from data_loaders.{home} import "))
        assert name in line.partition(" import ")[2].split(", ")


def test_the_import_loads_nothing():
    loaded = "import sys, data_loaders; print([name for name in ('numpy', 'torch', 'zarr') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
