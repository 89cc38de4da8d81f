"""The whole road in a bucket, by the command line: from a file of counts to an exported atlas of synthetic cells."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from buckets import Line

import cfgen_dist
from cfgen_dist.cli import main
from data_loaders import export, open_atlas
from data_loaders.storage import place

TRAIN = [
    "--autoencoder.max_epochs", "3", "--autoencoder.hidden", "[32, 16]", "--autoencoder.latent_dim", "8",
    "--flow.max_steps", "60", "--flow.hidden", "32", "--flow.blocks", "2", "--flow.embedding", "16",
    "--accelerator", "cpu",
]  # fmt: skip
SHORT = ["--sets", "2", "--floor-sets", "2", "--embedding", "pca"]


def road(at):
    """Command lines from `at/cells.h5ad` to `at/made.h5ad`."""
    return [
        ["ingest", f"{at}/cells.h5ad", f"{at}/atlas.zarr", "--labels", "cell_type,donor", "--min-cells", "1"],
        ["train", f"{at}/atlas.zarr", "--out", f"{at}/run", *TRAIN],
        ["generate", f"{at}/run", f"{at}/made.zarr", "--cells", "300", "--shard-size", "100", "--workers", "2"],
        ["evaluate", f"{at}/atlas.zarr", f"{at}/made.zarr", "--out", f"{at}/report", *SHORT],
        ["export", f"{at}/made.zarr", f"{at}/made.h5ad"],
    ]


@pytest.fixture
def start(bucket, tiny_atlas, tmp_path):
    """An h5ad file in the bucket; its address up to the name."""
    export(tiny_atlas, tmp_path / "cells.h5ad")
    place(f"{bucket.url}/x/cells.h5ad").upload(tmp_path / "cells.h5ad")
    return f"{bucket.url}/x"


@pytest.mark.heavy
def test_from_counts_to_an_exported_atlas(bucket, start, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    for command in road(start):
        assert main(command) == 0, (command, capsys.readouterr().err)
        if command[0] != "evaluate":
            out = command[3] if command[0] == "train" else command[2]
            assert main(command) == 2, "an OUT that is there is refused"
            assert out in capsys.readouterr().err
    for path in (f"{start}/atlas.zarr", f"{start}/run", f"{start}/made.zarr"):
        assert main(["verify", path]) == 0, capsys.readouterr().err
        assert main(["describe", path]) == 0, capsys.readouterr().err
    assert main(["verify", f"{start}/made.zarr", "--run", f"{start}/run", "--shards", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing was written here"
    tops = {"atlas.zarr", "cells.h5ad", "made.h5ad", "made.zarr", "made.zarr.plan.json", "report", "run"}
    assert {key.split("/")[1] for key in bucket.keys("x/")} == tops, "nothing else is left"
    made = ad.read_h5ad(place(f"{start}/made.h5ad").download(tmp_path / "made.h5ad"))
    cells = open_atlas(f"{start}/made.zarr")
    assert (cells.read(np.arange(300)).to_scipy() != made.X).nnz == 0


@pytest.mark.slow
def test_the_same_with_faults_and_kills(bucket, start, tmp_path):
    """Errors 500 and 503, lost and cut answers, and kill -9 in mid-upload: the counts are those of a quiet road."""
    copied = start.replace("/x", "/y")
    place(f"{copied}/cells.h5ad").upload(tmp_path / "cells.h5ad")
    for command in road(copied):
        assert main(command) == 0
    resumed = {"train": ["--resume"], "generate": ["--resume"], "evaluate": ["--resume"]}
    with Line(bucket.endpoint) as line:
        environ = os.environ | {"AWS_ENDPOINT_URL": line.url, "PYTHONPATH": str(Path(cfgen_dist.__file__).parents[1])}
        faults = iter(["500", "lost", "cut", "503", "refuse", 0.2] * 100_000)
        for command in road(start):
            for after in (12, 40, 100, None):  # requests after which it is killed
                started = len(line.requests)
                line.fail = lambda _: next(faults) if len(line.requests) % 11 == 0 else None
                words = [sys.executable, "-m", "cfgen_dist", *command]
                has_begun = (command[0] == "train" and bucket.keys("x/run/")) or after != 12
                words += resumed.get(command[0], []) if has_begun else []
                with subprocess.Popen(words, env=environ, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as child:
                    while after is not None and child.poll() is None and len(line.requests) - started < after:
                        time.sleep(0.01)
                    if after is not None:
                        child.kill()
                    error = child.communicate()[1]
                if child.returncode == 0:
                    break
            assert child.returncode == 0, (command, error)
    for name in ("atlas.zarr", "made.zarr"):
        one, two = (open_atlas(f"{at}/{name}") for at in (start, copied))
        rows = np.arange(two.n_cells)
        assert (one.read(rows).to_scipy() != two.read(rows).to_scipy()).nnz == 0
    reports = [json.loads(bucket.read(f"{at}/report/metrics.json")) for at in ("x", "y")]
    assert reports[0].keys() == reports[1].keys()
