"""What `import cfgen_dist` offers, and that neither it nor any --help loads what only the work needs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cfgen_dist
from cfgen_dist.cli import COMMANDS

HEAVY = (
    "anndata", "dask", "h5py", "jinja2", "lightning", "matplotlib", "numba", "numpy", "optuna", "pandas", "ray", "rich",
    "safetensors", "scanpy", "scipy", "sklearn", "tiledbsoma", "torch", "torchdyn", "umap", "zarr",
)  # fmt: skip
FOLDER = Path(cfgen_dist.__file__).parent


def fresh(code, *arguments):
    """What a new process prints last, as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_every_name_is_there_and_is_what_it_is_called():
    assert cfgen_dist.__all__ == sorted(cfgen_dist.__all__)
    for name in cfgen_dist.__all__:
        assert name in dir(cfgen_dist)
        if name != "__version__":
            assert getattr(cfgen_dist, name).__name__ == name
    with pytest.raises(AttributeError, match=r"module 'cfgen_dist' has no attribute 'trane'"):
        _ = cfgen_dist.trane


def test_type_checkers_see_the_same_names_in_the_same_places():
    tree = ast.parse((FOLDER / "__init__.py").read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("cfgen_dist.")
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == cfgen_dist._HOMES
    assert {*seen, "__version__"} == {*cfgen_dist.__all__}


def test_no_module_takes_the_place_of_a_function():
    modules = {path.stem for path in FOLDER.iterdir()}
    assert not modules & {*cfgen_dist.__all__}


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    assert cfgen_dist.__version__ == version("cfgen-dist")


@pytest.mark.heavy
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_that_only_the_work_needs(command):
    """Counted in modules, which a busy machine does not change; the bound in seconds is three times today's figure."""
    code = (
        "import json, sys, time\n"
        "import cfgen_dist\n"
        "from cfgen_dist.cli import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps({'modules': sorted(sys.modules), 'seconds': time.process_time()}))"
    )
    found = fresh(code, *filter(None, [command]))
    assert [name for name in HEAVY if name in found["modules"]] == []
    assert found["seconds"] < 0.5


def test_importing_the_face_loads_nothing_else():
    code = "import json, sys, cfgen_dist; print(json.dumps([m for m in sys.modules if m.startswith('cfgen_dist')]))"
    assert fresh(code) == ["cfgen_dist"]
