"""A training in one process that is told to stop: between two steps, saved, and resumed to the same bytes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from cfgen_dist.config import load_config
from cfgen_dist.training import stopping
from cfgen_dist.training.callbacks import SeedEveryStep
from cfgen_dist.training.run import train
from data_loaders.errors import Interrupted

SETTINGS = {**TINY, "autoencoder.batch_size": 32, "flow.max_steps": 80}


@pytest.fixture(scope="module")
def whole(tiny_atlas, tmp_path_factory):
    """The run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_atlas, out, load_config(overrides=SETTINGS))
    return out


def at(monkeypatch, stage, step, act):
    """Call `act` while this step of this stage is being done, once."""
    before = SeedEveryStep.on_train_batch_start
    done = []

    def start(self, trainer, module, batch, batch_idx):
        before(self, trainer, module, batch, batch_idx)
        if (self.stage, trainer.global_step) == (stage, step) and not done:
            done.append(step)
            act()

    monkeypatch.setattr(SeedEveryStep, "on_train_batch_start", start)


def send(*numbers):
    def act():
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("stage", "step", "number", "name", "where"),
    [
        (0, 20, signal.SIGTERM, "SIGTERM", "step 21 of the autoencoder"),  # in the middle of an epoch of 14
        (0, 27, signal.SIGINT, "Ctrl-C", "step 28 of the autoencoder"),  # its last step: validated, then saved
        (1, 3, signal.SIGTERM, "SIGTERM", "step 4 of the autoencoder, refit"),
        (2, 40, signal.SIGINT, "Ctrl-C", "step 41 of the flow"),
    ],
)
def test_a_signal_costs_no_step(whole, tiny_atlas, tmp_path, monkeypatch, stage, step, number, name, where):
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    at(monkeypatch, stage, step, send(number))
    with pytest.raises(Interrupted) as stopped:
        train(tiny_atlas, tmp_path / "run", load_config(overrides=SETTINGS))
    message = f"{tmp_path / 'run'}: stopped by {name} after {where}; all steps are saved, nothing is lost: "
    assert str(stopped.value) == message + "`resume=True` goes on from there"
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers

    steps = []
    at(monkeypatch, stage, step, lambda: steps.append("again"))
    train(tiny_atlas, tmp_path / "run", resume=True)
    assert steps == [], "no step is done twice"
    for part in ("autoencoder", "flow"):
        weights = [load_file(run / "bundle" / f"{part}.safetensors") for run in (whole, tmp_path / "run")]
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=0)


@pytest.mark.heavy
def test_a_second_signal_ends_it_at_once(tiny_atlas, tmp_path, monkeypatch):
    at(monkeypatch, 0, 20, send(signal.SIGTERM, signal.SIGTERM))
    settings = load_config(overrides=SETTINGS | {"checkpoint_every_n_steps": 15})
    with pytest.raises(Interrupted) as stopped:
        train(tiny_atlas, tmp_path / "run", settings)
    assert "stopped by SIGTERM; steps 16 to 20 of the autoencoder are lost, those before are saved: " in str(
        stopped.value
    )
    assert stopped.value.code == 143
    assert stopping.asked() is None


@pytest.mark.heavy
def test_a_signal_at_the_last_step_loses_nothing(whole, tiny_atlas, tmp_path, monkeypatch):
    """The stage is finished, which takes no time, and the next one does not begin."""
    at(monkeypatch, 2, 79, send(signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM; all steps are saved, nothing is lost"):
        train(tiny_atlas, tmp_path / "run", load_config(overrides=SETTINGS))
    assert (tmp_path / "run" / "flow" / "weights.safetensors").exists()
    train(tiny_atlas, tmp_path / "run", resume=True)
    weights = [load_file(run / "bundle" / "flow.safetensors") for run in (whole, tmp_path / "run")]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=0)


@pytest.mark.heavy
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_how_to_go_on(tiny_atlas, tmp_path, number, code):
    command = [sys.executable, "-m", "cfgen_dist", "train", str(tiny_atlas), "--out", "run", "--accelerator", "cpu"]
    command += ["--autoencoder.max_epochs", "1000", "--autoencoder.patience", "1000"]
    # not of a shell in the background, whose children ignore Ctrl-C
    default = "import signal, os, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    started = subprocess.Popen(
        [sys.executable, "-c", default + "os.execv(sys.argv[1], sys.argv[1:])", *command],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "autoencoder" / "metrics.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.send_signal(number)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == code, said
    assert "all steps are saved, nothing is lost: --resume goes on from there" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_another_thread_cannot_take_signals(tmp_path):
    """A training that is called from a thread, as notebooks of some servers do, leaves signals as they are."""
    handlers = []

    def inside():
        with stopping.saved_at_signals(tmp_path):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
