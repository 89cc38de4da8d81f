"""One trial: a training with some settings changed, in its own folder, reporting as it goes.

The folder is all a trial has: `trial.json` says what to do, `reports.jsonl` what was reached when, `result.json` how it
ended. A trial whose process dies goes on from its last checkpoint.
"""

import copy
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cfgen_dist.config import Config, load_config
from cfgen_dist.model.autoencoder import Autoencoder
from cfgen_dist.model.bundle_form import check_state
from cfgen_dist.model.multimodal import JointAutoencoder
from cfgen_dist.model.velocity import Velocity
from cfgen_dist.training.autoencoder import train_autoencoder, untrained_autoencoder
from cfgen_dist.training.calibration import calibrate
from cfgen_dist.training.checkpoints import LAST
from cfgen_dist.training.flow import train_flow
from cfgen_dist.training.folder import RunFolder
from cfgen_dist.training.ranks import on_main, rank
from cfgen_dist.training.settings import RunSettings
from cfgen_dist.training.settle import settle
from cfgen_dist.training.stages import assemble, label_categories
from cfgen_dist.tuning.objective import NOTED, WORST, ValidationCells
from cfgen_dist.tuning.records import Report, Request, read_best_autoencoder, read_report_lines, read_request
from data_loaders import open_atlas
from data_loaders.errors import BadInput
from data_loaders.reading.atlas import Atlas
from data_loaders.records import one_line
from data_loaders.vouchers import SUFFIX, check_vouched, write_sealed, write_vouched

WEIGHTS, RESULT, REPORTS, TRIAL = "weights.safetensors", "result.json", "reports.jsonl", "trial.json"
REPORTS_OF_A_FLOW = 4  # at even shares of its steps
WATCHED = (f"*/{TRIAL}", f"*/{REPORTS}", f"*/{RESULT}")  # of a search in a bucket: what its driver looks at
SPARED = (WEIGHTS, WEIGHTS + SUFFIX, RESULT, REPORTS, TRIAL)
State = dict[str, Tensor]
Send = Callable[[Report], None]  # gets every report
Score = Callable[[Velocity], tuple[float, dict[str, float]]]  # objective and metrics of a network on the CPU


class Diverged(ValueError):
    """The training left the numbers."""


class Reporter(Callback):
    """Send the objective of a training as it goes.

    Parameters
    ----------
    send : callable
        Called with a dict: `objective`, `step` (epochs of an autoencoder, quarters of a flow) and more metrics.
    folder : Path
        Where `reports.jsonl` is.
    save_every : int, optional
        Reports between checkpoints, for others to take over.
    """

    def __init__(self, send: Send, folder: Path, save_every: int | None = None) -> None:
        self.send, self.folder, self.save_every = send, folder, save_every

    def save(self, step: int, trainer: Trainer) -> None:
        """Save a checkpoint for others when it is time; all ranks do so together."""
        if self.save_every and step % self.save_every == 0:
            trainer.save_checkpoint(self.folder / LAST)

    def tell(self, step: int, objective: float, metrics: Mapping[str, Any] | None = None, last: bool = False) -> None:
        """Keep one report and send it, unless it is the last; `Diverged` when the objective is no number."""
        if not math.isfinite(objective):
            raise Diverged(f"diverged: the objective is {objective} after report {step}")
        if rank():
            return
        report: Report = {"step": step, "objective": objective, "time": time.time(), **(metrics or {})}
        with open(self.folder / REPORTS, "a") as file:
            file.write(json.dumps(report) + "\n")
        if not last:  # the trial is done: nothing is left to decide
            self.send(report)


class ReportLikelihood(Reporter, Checkpoint):
    """After each epoch the best held-out negative log-likelihood so far: these are the weights that are kept.

    A Checkpoint to Lightning, so it is called after those that save the best weights and count the epochs without
    better ones: a member of a population may be paused inside `send`, and goes on from what was saved before.
    """

    def __init__(self, send: Send, folder: Path, save_every: int | None = None) -> None:
        super().__init__(send, folder, save_every)
        self.best = math.inf
        for report in on_main(lambda: read_reports(folder)):
            # the best weights of another trial were not copied with its last ones
            self.best = math.inf if "copied_from" in report else min(self.best, report["objective"])

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report."""
        value, epochs = float(trainer.callback_metrics["val_nll"]), trainer.current_epoch + 1
        self.best = min(self.best, value) if math.isfinite(value) else value
        self.save(epochs, trainer)
        self.tell(epochs, self.best, {"val_nll": value}, last=trainer.should_stop or epochs == trainer.max_epochs)


class ReportSamples(Reporter):
    """At every quarter of the steps, the distance of generated to validation cells.

    Parameters
    ----------
    send, folder, save_every
        As in `Reporter`.
    score : callable
        Takes the velocity network, on the CPU, returns the objective and a dict of metrics.
    """

    def __init__(self, send: Send, folder: Path, score: Score, save_every: int | None = None) -> None:
        super().__init__(send, folder, save_every)
        reports = on_main(lambda: read_reports(folder))
        self.score, self.told = score, reports[-1]["step"] if reports else 0
        self.scored: tuple[float, dict[str, float]] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Score at a new quarter, while the averaged weights are in place; the last is scored when all is done."""
        quarter = REPORTS_OF_A_FLOW * trainer.global_step // trainer.max_steps
        if self.told < quarter < REPORTS_OF_A_FLOW:
            # of a copy: cells are generated on the CPU, wherever the network is trained
            velocity: Any = module.velocity
            self.told, self.scored = quarter, on_main(lambda: self.score(copy.deepcopy(velocity).cpu()))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Report it, once the training's own weights are back for a checkpoint."""
        if self.scored:
            (value, metrics), self.scored = self.scored, None
            self.save(self.told, trainer)
            self.tell(self.told, value, metrics)


class Settings(Callback):
    """Put the trial's own settings into an optimiser whose state is that of another trial."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Learning rates and weight decay as configured, moments as loaded."""
        (optimizer,) = trainer.optimizers
        fresh: Any = module.configure_optimizers()
        fresh = fresh["optimizer"] if isinstance(fresh, dict) else fresh
        for group, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group["weight_decay"] = wanted["weight_decay"]
            group["lr"] = group["initial_lr"] = wanted.get("initial_lr", wanted["lr"])
        schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
        for schedule in schedules:
            schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
            for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = base * factor(schedule.last_epoch)


def trial_config(run: Path, stage: str, values: dict[str, Any]) -> Config:
    """The settled config of a trial: the base, the best autoencoder's settings for a flow, the trial's own values.

    Parameters
    ----------
    run : Path
        The search's directory.
    stage : {"autoencoder", "flow"}
    values : dict of str to object
        Dotted keys.
    """
    request = read_request(run)
    if stage == "flow":
        values = read_best_autoencoder(run)["values"] | values
    config = load_config(request["base"], values)
    config.refit = False  # validation cells must stay unseen
    config.checkpoint_every_minutes = config.checkpoint_every_minutes or 0.5
    settle(config, open_atlas(request["atlas"]["path"]), here=False)
    return config


def work(
    home: RunFolder,
    stage: str,
    values: dict[str, Any],
    folder: Path,
    send: Send,
    threads: int = 1,
    accelerator: Literal["cpu", "gpu"] = "cpu",
    save_every: int | None = None,
) -> dict[str, Any]:
    """Train and judge one trial.

    Parameters
    ----------
    home : RunFolder
        Of the search.
    folder : Path
        The trial's own in it.
    stage : {"autoencoder", "flow"}
    values : dict of str to object
    send : callable
        Gets every report.
    threads : int
        Of torch.
    accelerator : {"cpu", "gpu"}
        What the trial was given.
    save_every : int, optional
        See `Reporter`.

    Returns
    -------
    dict
        The last report.
    """
    torch.set_num_threads(threads)
    request = read_request(home.path)
    atlas, config = open_atlas(request["atlas"]["path"]), trial_config(home.path, stage, values)
    config.accelerator = accelerator
    train = _autoencoder if stage == "autoencoder" else _flow
    state, last = train(home, atlas, config, request, folder, send, save_every)
    if rank() == 0:
        write_vouched(folder / WEIGHTS, save(state))
    return last


def _autoencoder(
    home: RunFolder, atlas: Atlas, config: Config, request: Request, folder: Path, send: Send, save_every: int | None
) -> tuple[State, dict[str, Any]]:
    """Train an autoencoder: its weights and its best held-out negative log-likelihood."""
    report = ReportLikelihood(send, folder, save_every)
    network = train_autoencoder(
        atlas, config.autoencoder, config.modalities, RunSettings.of(config, home.saver), folder, _callbacks(report)
    )
    return network.state_dict(), {"objective": report.best}


def _flow(
    home: RunFolder, atlas: Atlas, config: Config, request: Request, folder: Path, send: Send, save_every: int | None
) -> tuple[State, dict[str, Any]]:
    """Train a flow on the best autoencoder's latents: its weights, and on rank 0 the last score."""
    autoencoder = best_autoencoder(home.path, atlas, config)
    parts = home.address(folder / "calibration")  # that all ranks see
    calibration = calibrate(atlas, autoencoder, config, parts) if config.calibrate else None
    cells = functools.cache(lambda: ValidationCells(atlas, config))
    if rank() == 0:
        cells()  # now: what is wrong with them is said before anything is trained

    def score(velocity: Velocity) -> tuple[float, dict[str, float]]:
        if not all(value.isfinite().all() for value in velocity.state_dict().values()):
            raise Diverged("diverged: the velocity network has weights that are not finite")
        model = assemble(atlas, config, autoencoder, velocity, {}, calibration)
        weights, name = request["guidance"], request["objective"]
        structure = name == WORST
        if structure:  # it takes seconds a set, and guidance is chosen by it once the best flow is there
            weights = [min(weights, key=lambda weight: abs(weight - 1))]
        scored = {weight: cells().score(model, guidance=weight, structure=structure) for weight in weights}
        by_weight = {weight: each.mean for weight, each in scored.items()}
        metrics = {f"{name}@{weight:g}": by_weight[weight][name] for weight in weights}
        best = min(weights, key=lambda weight: by_weight[weight][name])
        noted = {key: by_weight[best][key] for key in NOTED if key in by_weight[best]}
        return by_weight[best][name], metrics | {"guidance": best} | noted

    report = ReportSamples(send, folder, score, save_every)
    network = train_flow(
        open_atlas(str(home.place / "latents.zarr")),
        label_categories(atlas, config),
        config.flow,
        config.modalities,
        RunSettings.of(config, home.saver),
        folder,
        _callbacks(report),
    )
    last: dict[str, Any] = {}
    if rank() == 0:
        value, metrics = score(network)
        last = {"objective": value, **metrics}
        report.tell(REPORTS_OF_A_FLOW, value, metrics, last=True)
    return network.state_dict(), last


def _callbacks(report: Reporter) -> list[Callback]:
    """The reporter, and for a member of a population what gives it its own settings."""
    return [report, Settings()] if report.save_every else [report]


def best_autoencoder(run: Path, atlas: Atlas, config: Config) -> Autoencoder | JointAutoencoder:
    """The best autoencoder of the search, in eval mode."""
    autoencoder = untrained_autoencoder(atlas, config.autoencoder, config.modalities)
    load_weights(autoencoder, run / "best_autoencoder.safetensors")
    return autoencoder.eval()


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights in a file; BadInput when they are not its own."""
    check_vouched(path, "; remove the folder of that trial")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is damaged ({one_line(error)}); remove the folder of that trial") from error
    check_state(network.state_dict(), state, str(path))
    network.load_state_dict(state)


def finish(folder: Path, status: str, **facts: Any) -> dict[str, Any]:
    """Write how a trial ended, `done`, `stopped` or `failed`, and remove its checkpoints."""
    result = {"status": status, "finished": time.time(), **facts}
    write_sealed(folder / RESULT, result, indent=1)
    clear(folder)
    return result


def clear(folder: Path, spared: Container[str] = SPARED) -> None:
    """Remove what a finished trial no longer needs."""
    for entry in folder.iterdir():
        if entry.name in spared:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def read_reports(folder: Path) -> list[Report]:
    """The reports of a trial; a line cut short by a kill is left out."""
    return read_report_lines(folder / REPORTS)


def why(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, Diverged | BadInput) else f"{type(error).__name__}: {text}"
