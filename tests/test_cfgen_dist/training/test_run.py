"""Training: what a run leaves, what it refuses, and that an interrupted run ends where the uninterrupted one does."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from scipy import stats

from cfgen_dist.bundle import CFGen
from cfgen_dist.config import load_config
from cfgen_dist.training.callbacks import SaveLast, SeedEveryStep
from cfgen_dist.training.run import read_run, train
from data_loaders import open_atlas, simulate
from data_loaders.errors import BadInput

pytestmark = pytest.mark.heavy
LONGER = {**TINY, "autoencoder.max_epochs": 12, "autoencoder.batch_size": 32, "checkpoint_every_n_steps": 10}

TIMES = ["cells_per_second", "loader_wait"]


def as_arguments(settings):
    words = []
    for key, value in settings.items():
        words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def start(atlas, run, *more):
    command = [sys.executable, "-m", "cfgen_dist", "train", atlas, "--out", run, *as_arguments(LONGER), *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_training_ends_where_the_uninterrupted_one_does(tiny_atlas, tmp_path):
    """SIGKILL in the autoencoder, again in the flow; the final weights are equal to the last bit."""
    run = tmp_path / "killed"
    kill_when(start(tiny_atlas, run), (run / "autoencoder" / "last.ckpt").exists)
    assert not (run / "autoencoder" / "weights.safetensors").exists()
    kill_when(start(tiny_atlas, run, "--resume"), (run / "flow" / "last.ckpt").exists)
    assert not (run / "flow" / "weights.safetensors").exists()
    assert start(tiny_atlas, run, "--resume").wait() == 0
    assert start(tiny_atlas, tmp_path / "whole").wait() == 0  # a fresh process too: as alike as can be
    for stage in ("autoencoder", "flow"):
        weights = [load_file(r / "bundle" / f"{stage}.safetensors") for r in (run, tmp_path / "whole")]
        assert weights[0].keys() == weights[1].keys()
        for name in weights[0]:
            np.testing.assert_array_equal(weights[0][name], weights[1][name], err_msg=name)
        steps = [pd.read_csv(r / stage / "metrics.csv")["step"].tolist() for r in (run, tmp_path / "whole")]
        # Lightning logs a step after its checkpoint: a kill between the two costs that one row.
        lost = Counter(steps[1]) - Counter(steps[0])
        assert lost.total() <= 1, "the metrics of both halves"
        assert not Counter(steps[0]) - Counter(steps[1]), "no row twice"


def test_a_checkpoint_at_the_end_of_an_epoch_has_its_validation(tiny_atlas, tmp_path, monkeypatch):
    """Saved at the last step of every epoch and resumed after the second: the validations and weights of one go."""
    settings = {**TINY, "autoencoder.max_epochs": 4, "autoencoder.batch_size": 32, "checkpoint_every_n_steps": 14}
    config = load_config(overrides={**settings, "refit": False, "flow.batch_size": 31})  # epochs of 14 steps, both
    whole = train(tiny_atlas, tmp_path / "whole", config)
    seed_step = SeedEveryStep.on_train_batch_start

    def interrupted(self, trainer, module, batch, batch_idx):
        seed_step(self, trainer, module, batch, batch_idx)
        if (self.stage, trainer.global_step) in interruptions:
            interruptions.remove((self.stage, trainer.global_step))
            raise InterruptedError

    monkeypatch.setattr(SeedEveryStep, "on_train_batch_start", interrupted)
    interruptions, run = {(0, 28), (2, 28)}, tmp_path / "interrupted"
    for _ in range(2):
        with pytest.raises(InterruptedError):
            train(tiny_atlas, run, config, resume=True)
    assert train(tiny_atlas, run, config, resume=True).digest == whole.digest
    for stage in ("autoencoder", "flow"):
        metrics = [
            pd.read_csv(folder / stage / "metrics.csv").drop(columns=TIMES) for folder in (run, tmp_path / "whole")
        ]
        pd.testing.assert_frame_equal(*metrics, check_like=True, check_dtype=False)


def test_training_learns_more_than_the_mean_profile(tmp_path):
    """Held-out likelihood against the constant gene profile with the best common theta, computed with scipy."""
    simulate(tmp_path / "atlas.zarr", cells=1500, genes=150, types=4, donors=2, density=0.3, seed=0)
    settings = {**TINY, "autoencoder.max_epochs": 15, "autoencoder.hidden": [64, 32]}
    model = train(tmp_path / "atlas.zarr", tmp_path / "run", load_config(overrides=settings))
    atlas = open_atlas(tmp_path / "atlas.zarr")
    held_out = atlas.rows(split="val")
    counts = atlas.read(held_out).to_scipy().toarray()
    profile = atlas.var["mean"].to_numpy()
    mu = counts.sum(axis=1, keepdims=True) * (profile + 1e-6) / (profile + 1e-6).sum()
    constant = min(
        -stats.nbinom(theta, theta / (theta + mu)).logpmf(counts).sum(axis=1).mean() for theta in (0.3, 1, 3, 10)
    )
    assert model.provenance["training"]["val_nll"] < constant - 5


@pytest.mark.heavy
@pytest.mark.parametrize("stage", ["autoencoder", "flow"])
@pytest.mark.parametrize("refit", [True, False])
def test_killed_after_the_last_step(tiny_atlas, tmp_path, stage, refit):
    """A run that has its last checkpoint, but no weights yet, ships the averaged weights too."""
    train(tiny_atlas, tmp_path / "run", load_config(overrides=TINY | {"checkpoint_every_n_steps": 2, "refit": refit}))
    weights = tmp_path / "run" / stage / "weights.safetensors"
    expected = weights.read_bytes()
    weights.unlink()
    weights.with_name(f"{weights.name}.sha256").unlink()
    shutil.rmtree(tmp_path / "run" / "bundle")
    train(tiny_atlas, tmp_path / "run", resume=True)
    assert weights.read_bytes() == expected


def test_a_finished_run_is_not_trained_again(tiny_atlas, tiny_run):
    before = (tiny_run / "flow" / "metrics.csv").stat().st_mtime_ns
    model = train(tiny_atlas, tiny_run, resume=True)
    assert (tiny_run / "flow" / "metrics.csv").stat().st_mtime_ns == before
    assert model.digest == CFGen.load(tiny_run).digest
    with pytest.raises(BadInput, match="holds a run already: `resume=True` continues it"):
        train(tiny_atlas, tiny_run)


def test_a_run_is_resumed_without_changes(tiny_atlas, tiny_run, tmp_path):
    with pytest.raises(BadInput, match=r"was started with flow.batch_size = 256, not 128: resume it without changes"):
        train(tiny_atlas, tiny_run, load_config(overrides={**TINY, "flow.batch_size": 128}), resume=True)
    simulate(tmp_path / "other.zarr", cells=600, genes=120, types=3, donors=2, density=0.3, seed=2)
    with pytest.raises(BadInput, match=r"was trained on .*tiny.zarr, whose cells differ from those of .*other.zarr"):
        train(tmp_path / "other.zarr", tiny_run, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "cell_typ"}, "labels: the atlas has no label column 'cell_typ', did you mean 'cell_type'?"),
        ({"size_factor.covariate": "batch"}, "size_factor.covariate: the atlas has no label column 'batch'"),
        (
            {"labels": "donor", "autoencoder.theta_covariate": "cell_type"},
            "expected a label the model is conditioned on",
        ),
    ],
)
def test_settings_that_do_not_fit_the_atlas(tiny_atlas, tmp_path, settings, message):
    with pytest.raises(BadInput) as error:
        train(tiny_atlas, tmp_path / "run", load_config(overrides=settings))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoder.lr": 1e30}, "the training of the autoencoder diverged: its held-out value is inf; lower its lr"),
        ({"flow.lr": 1e30}, "the training of the flow diverged: its weights are not finite; lower its lr"),
    ],
)
def test_a_training_that_diverges_leaves_no_model(tiny_atlas, tmp_path, settings, message):
    with pytest.raises(BadInput) as error:
        train(tiny_atlas, tmp_path / "run", load_config(overrides=TINY | settings))
    assert str(error.value) == message
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_folder_of_something_else_is_left_alone(tiny_atlas, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists and is not a run"):
        train(tiny_atlas, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"autoencoder.theta_covariate": "donor", "size_factor.covariate": "donor", "size_factor.law": "lognormal"},
        {"labels": [], "flow.condition_on_size_factor": False, "autoencoder.input": "proportions"},
        {"flow.conditioning": "joint", "size_factor.covariate": "null", "autoencoder.input": "log1p"},
        {"flow.ema": 0, "autoencoder.ema": 0, "labels": ["donor"]},
    ],
)
def test_every_variant_trains_saves_and_generates(tiny_atlas, tmp_path, settings):
    train(tiny_atlas, tmp_path / "run", load_config(overrides={**TINY, "flow.max_steps": 20, **settings}))
    model = CFGen.load(tmp_path / "run")
    cells = model.generate(40, seed=0)
    assert cells.n_obs == 40
    assert cells.X.nnz > 0
    assert list(model.labels) == [name for name in cells.obs if name in ("cell_type", "donor")]
    rows = 2 if settings.get("autoencoder.theta_covariate") else 1
    assert model.autoencoder.log_theta.shape[0] == rows


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"", "config.yaml is damaged"),
        ("atlas.json", b'{"path": "a', "atlas.json is damaged"),
        ("atlas.json", b"[]", "atlas.json is damaged"),
        (
            "autoencoder/weights.safetensors",
            b"cut",
            "autoencoder/weights.safetensors is damaged .*the stage is done again",
        ),
        ("latents.zarr/X/zarr.json", b"{", "latents.zarr: X cannot be read: the file X/zarr.json has"),
        ("flow/last.ckpt", b"", "flow/last.ckpt is damaged .*without that file the stage starts again"),
        ("flow/last.ckpt", b"PK cut short", "flow/last.ckpt is damaged"),
    ],
)
def test_a_damaged_run_is_not_continued(tiny_atlas, tiny_run, tmp_path, file, content, message):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "bundle")
    if file == "flow/last.ckpt":  # as if interrupted there
        (run / "flow" / "weights.safetensors").unlink()
    else:
        assert (run / file).exists()
    (run / file).write_bytes(content)
    with pytest.raises(BadInput, match=message) as refused:
        train(tiny_atlas, run, resume=True)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def interrupted(tiny_atlas, tiny_run, tmp_path_factory):
    """A run that was interrupted in its flow, after a checkpoint."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "bundle")
    shutil.rmtree(run / "flow")
    saved = SaveLast._save_if_due

    def save_and_stop(self, trainer):
        saved(self, trainer)
        if trainer.global_step == 40:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SaveLast, "_save_if_due", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_atlas, run, load_config(run / "config.yaml", {"checkpoint_every_n_steps": 20}), resume=True)
    return run


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), [1]),
        (("state_dict",), {}),
        (("state_dict", "velocity.latent_mean"), torch.zeros(3)),
        (("state_dict", "x"), torch.zeros(3)),
        (("loops",), {}),
        (("loops", "fit_loop", "state_dict", "combined_loader"), [{"epoch": 0, "shown": [[10**9, 1]], "seed": 0}]),
        (("loops", "fit_loop", "epoch_loop.batch_progress"), None),
        (("optimizer_states",), [{}]),
        (("optimizer_states",), []),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(1, 2, 3)),
        (("optimizer_states", 0, "param_groups"), []),
        (("optimizer_states", 0, "state"), {}),
        (("lr_schedulers",), []),
        (("callbacks",), {"ModelCheckpoint": 3}),
        (("lr_schedulers",), None),
        (("pytorch-lightning_version",), 3),
        (("global_step",), -1),
        (("current_model_state",), {}),
    ],
)
def test_a_checkpoint_of_wrong_form_is_refused(tiny_atlas, interrupted, tmp_path, path, value):
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    whole = [torch.load(run / "flow" / "last.ckpt", weights_only=True)]
    parent, keys = whole, [0, *path]
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    torch.save(whole[0], run / "flow" / "last.ckpt")
    with pytest.raises(
        BadInput, match=r"flow/last\.ckpt is damaged .*without that file the stage starts again"
    ) as error:
        train(tiny_atlas, run, resume=True)
    assert "\n" not in str(error.value)


def test_an_interrupted_run_goes_on(tiny_atlas, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    train(tiny_atlas, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "bundle").is_dir()


def test_runs_written_before_there_were_checksums(tiny_run, tiny_atlas, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    facts = json.loads((run / "atlas.json").read_text())
    for key in ("contents", "config", "checksum"):
        del facts[key]
    (run / "atlas.json").write_text(json.dumps(facts))
    for file in run.rglob("*.sha256"):
        file.unlink()
    assert read_run(run)[1]["fingerprint"] == facts["fingerprint"]
    shutil.rmtree(run / "bundle")
    assert train(tiny_atlas, run, resume=True).digest == CFGen.load(tiny_run).digest
