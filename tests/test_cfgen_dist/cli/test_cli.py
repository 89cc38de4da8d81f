"""The command line as a user meets it: exit codes, one line for a mistake, never a traceback, help for all."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_data import small_adata

from cfgen_dist.cli import COMMANDS, Parser, main
from cfgen_dist.demo import demo_counts
from data_loaders import open_atlas
from data_loaders.errors import BadInput


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", "cfgen_dist", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"cfgen-dist {command}" in capsys.readouterr().out


def parser_of(command):
    parser = Parser(prog=f"cfgen-dist {command}")
    importlib.import_module(f"cfgen_dist.cli.{command}").configure(parser)
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_is_explained(command):
    for action in parser_of(command)._actions:
        assert action.help, action.dest
        assert len(action.help) > 10, action.dest


def test_choices_in_the_help_are_those_of_the_library():
    """The command line lists them itself, to answer --help without loading what the work needs."""
    from dataclasses import fields

    from cfgen_dist.cli import making, plan
    from cfgen_dist.evaluation.reference import PROTOCOLS
    from cfgen_dist.evaluation.run import EMBEDDINGS
    from cfgen_dist.forecasting.costs import GPUS
    from cfgen_dist.generation.options import Sampling
    from cfgen_dist.workers.options import Workers

    choices = {action.dest: action.choices for action in parser_of("evaluate")._actions}
    assert choices["protocol"] == PROTOCOLS
    assert choices["embedding"] == EMBEDDINGS
    assert tuple(GPUS) == plan.GPU_NAMES
    assert set(making.SAMPLING) == {field.name for field in fields(Sampling)}
    assert {*making.WORKERS} - {"resume"} == {field.name for field in fields(Workers)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["describe", "no-such-atlas.zarr"], "no-such-atlas.zarr"),
        (["train", "no-such-atlas.zarr", "--out", "run"], "no-such-atlas.zarr"),
        (["train", "x.zarr", "--out", "run", "--config", "pbmc3"], "did you mean 'pbmc3k'?"),
        (["train", "x.zarr", "--out", "run", "--flow.batchsize", "3"], "did you mean '--flow.batch_size'?"),
        (["train", "x.zarr", "--out", "run", "--flow.lr", "fast"], "flow.lr is 'fast', expected a number"),
        (["generate", "no-such-run", "out.zarr", "--cells", "5"], "no-such-run"),
        (["generate", "r", "out.zarr", "--cells", "5", "--guidance", "cell_type"], "expected NAME=VALUE"),
        (["generate", "r", "out.zarr", "--cells", "5", "--guidance", "a=b"], "expected a number"),
        (["generate", "r", "out.zarr", "--cells", "5", "--labels", "a=1,a=2"], "gives 'a' twice"),
        (["generate", "r", "out.zarr", "--cells", "five"], "invalid int value: 'five'"),
        (["evaluate", "no-such.zarr", "no-such-2.zarr", "--out", "report"], "no-such.zarr"),
        (["export", "no-such.zarr", "out.h5ad", "--to", "h5ad"], "no-such.zarr"),
        (["ingest", "no-such.h5ad", "out.zarr"], "no-such.h5ad"),
        (["trian"], "unknown command 'trian', did you mean 'train'?"),
        ([], "COMMAND"),
        (["--verbose", "train"], "COMMAND"),
        (["train", "x.zarr"], "the following arguments are required: --out"),
        (["export", "a.zarr", "b.h5ad", "c"], "'c' is one argument too many"),
        (["ingest", "no-such.h5ad", "--label", "cell_type", "out.zarr"], "'--label', did you mean '--labels'?"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as stop:  # argparse's own refusals
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == [], "nothing is left behind"


def test_options_may_stand_between_the_sources_and_the_output(tmp_path, capsys):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    out = tmp_path / "out.zarr"
    assert main(["ingest", str(tmp_path / "a.h5ad"), "--labels", "cell_type", str(out), "--min-cells", "1"]) == 0
    assert f"{out}: 60 cells x 25 genes" in capsys.readouterr().out
    assert list(open_atlas(out).labels) == ["cell_type"]


@pytest.mark.parametrize("command", ["train", "plan", "tune"])
def test_a_store_that_was_not_ingested_is_not_trained_on(command, tmp_path, capsys):
    small_adata().write_h5ad(tmp_path / "a.h5ad")
    out = [] if command == "plan" else ["--out", str(tmp_path / "run")]
    assert main([command, str(tmp_path / "a.h5ad"), *out]) == 2
    error = capsys.readouterr().err
    assert "a.h5ad: not an atlas that" in error
    assert os.listdir(tmp_path) == ["a.h5ad"]


@pytest.mark.heavy
def test_an_interrupt_exits_with_130(tiny_atlas, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "cfgen_dist", "train", tiny_atlas, "--out", run, "--flow.max_steps", "100000"]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not (run / "autoencoder" / "metrics.csv").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            error = process.communicate(timeout=60)[1]
        finally:
            process.kill()  # when it did not end by itself
    assert process.returncode == 130
    assert "Traceback" not in error


@pytest.mark.heavy
def test_the_module_and_its_version_run():
    done = call("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"cfgen-dist \d+\.\d+\.\d+", done.stdout.strip())


@pytest.mark.heavy
def test_importing_the_packages_needs_no_ray_and_no_soma():
    code = (
        "import sys, cfgen_dist.training.run, cfgen_dist.generation.run, cfgen_dist.evaluation, data_loaders; "
        "print([m for m in ('ray', 'tiledbsoma', 'torchdyn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_demo_counts_are_the_ones_behind_the_rounded_data():
    """Whole numbers, whose total over these genes never exceeds the cell's total over all genes."""
    cells = demo_counts()
    assert cells.shape == (700, 765)
    assert cells.X.dtype.kind == "i"
    assert cells.X.data.min() == 1
    assert cells.obs["cell_type"].nunique() == 10
    import scanpy as sc

    totals = sc.datasets.pbmc68k_reduced().obs["n_counts"].to_numpy()
    assert (np.asarray(cells.X.sum(axis=1)).ravel() <= totals).all()


def test_the_demo_leaves_other_folders_alone(tmp_path):
    from cfgen_dist.demo import demo

    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="is not empty and not an earlier demo"):
        demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
