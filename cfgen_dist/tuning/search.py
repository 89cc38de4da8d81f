"""One stage of a search on Ray Tune: what is tried next, what is given up early, what is already known.

The trials' folders are the only state. Tune's own snapshots lag behind by seconds, so a resumed search does not use
them: it reads the folders, tells the search and the scheduler what they hold, goes on with the unfinished trials and
then with new ones. None is lost and none is done twice.
"""

import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial

from cfgen_dist.config import Config
from cfgen_dist.training.folder import RunFolder
from cfgen_dist.tuning.distributions import Keys, Range, decode, to_optuna
from cfgen_dist.tuning.on_ray import run_trial
from cfgen_dist.tuning.records import Resources, TrialRecord
from cfgen_dist.tuning.strategies import LOST, Halving, Population, Suggest
from cfgen_dist.tuning.trial import REPORTS_OF_A_FLOW, RESULT, WATCHED
from cfgen_dist.tuning.trials import best_trial, end_trial, keep_best, new_trial, read_trials, trial_folders
from data_loaders.errors import BadInput
from data_loaders.storage import carried

if TYPE_CHECKING:
    from cfgen_dist.tuning.table import Table

GRACE = {"autoencoder": 5, "flow": 1}  # reports before a trial may be given up, or members of a population compared
REDUCTION = {"autoencoder": 3, "flow": 2}  # of so many trials one goes on at each rung
KEPT_CHECKPOINTS = 4  # of a member. Members wait for each other, so a donor is at most one checkpoint ahead


@dataclass(frozen=True)
class Stage:
    """One of the searches of trainings.

    Attributes
    ----------
    name : {"autoencoder", "flow"}
    home : RunFolder
        Of the search; the trials are in `folder`, `NAME/NNNN` of it.
    keys : dict
        Dotted key → distribution, as `load_space` gives them for the stage.
    base : dict of str to object
        The base config's values of these keys: the first trial.
    trials : int
    longest : int
        Most reports that a trial can make.
    pbt : bool
        Population-based training; Optuna's suggestions with ASHA otherwise.
    seed : int
        Of the suggestions.
    """

    name: str
    home: RunFolder
    keys: Keys
    base: dict[str, Any]
    trials: int
    longest: int
    pbt: bool
    seed: int

    @property
    def folder(self) -> Path:
        """Where the trials are."""
        return self.home.path / self.name


def search(stage: Stage, resources: Resources, concurrent: int, table: "Table") -> TrialRecord:
    """Do what is left of the trials of one stage, and return the best of all.

    Parameters
    ----------
    stage : Stage
    resources : Resources
    concurrent : int
        Trials at once, at most.
    table : Table
        Shows them.

    Raises
    ------
    BadInput
        No trial has succeeded; the message has the reason of the first.
    """
    stage.home.pull(*WATCHED)
    records, looked = read_trials(stage.folder), set[str]()
    left = [record for record in records if record["status"] == "unfinished"]
    known = [record for record in records if record["status"] != "unfinished"]
    if stage.trials > len(known):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _settle_environment()
            keep_best(stage.home, stage.folder, looked)
            fixed = {"run": str(stage.home.place), "stage": stage.name, **resources}
            strategy = _population if stage.pbt else _halving
            with stage.home.watching(*WATCHED):
                _run_tuner(stage, *strategy(stage, fixed, known, left), resources, concurrent, table)
            for folder in trial_folders(stage.folder):  # one that Tune gave up without a word to the search
                if not (folder / RESULT).exists():
                    end_trial(stage.home, folder, "failed", why=f"its process was lost more than {LOST} times")
    keep_best(stage.home, stage.folder, looked)
    table.done(stage.name)
    best = best_trial(stage.folder)
    if best is None:
        reasons = [record["why"] for record in read_trials(stage.folder) if record.get("why")]
        why = reasons[0] if reasons else "nothing"
        raise BadInput(f"{stage.folder}: no trial has succeeded; the first says: {why}")
    return best


def _halving(
    stage: Stage, fixed: dict[str, Any], known: list[TrialRecord], left: list[TrialRecord]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Optuna and ASHA: arguments of TuneConfig, and no parameters."""
    scheduler = Halving(
        time_attr="step", metric="objective", mode="min", grace_period=min(GRACE[stage.name], stage.longest),
        max_t=stage.longest + 1,  # trials end by themselves
        reduction_factor=REDUCTION[stage.name], stop_last_trials=False,
    )  # fmt: skip
    scheduler.remember(known)
    suggest = Suggest(stage.home, stage.folder, stage.keys, stage.base, fixed, stage.seed, stage.trials, known, left)
    return {"search_alg": suggest, "scheduler": scheduler, "num_samples": stage.trials - len(known)}, {}


def _population(
    stage: Stage, fixed: dict[str, Any], known: list[TrialRecord], left: list[TrialRecord]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Population-based training, all members at once and the base among them: arguments of TuneConfig, parameters."""
    import optuna

    finished = {record["number"] for record in known}
    members = {record["number"]: (record["folder"], record["values"]) for record in left}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=stage.seed)
    study, distributions = optuna.create_study(sampler=sampler), to_optuna(stage.keys)
    for number in range(stage.trials):
        values = decode(study.ask(distributions).params, stage.keys)
        if number not in finished and number not in members:
            values = stage.base if number == 0 else values
            members[number] = str(new_trial(stage.folder, number, values, stage.home)), values
    ranges = {key: d for key, d in stage.keys.items() if isinstance(d, Range)}  # all: see `check_changeable`
    scheduler = Population(
        time_attr="step", metric="objective", mode="min", perturbation_interval=GRACE[stage.name],
        hyperparam_mutations={"values": {key: _sampler(d) for key, d in ranges.items()}},
        custom_explore_fn=lambda config: _inside(config, ranges), synch=True, require_attrs=False,
    )  # fmt: skip
    parameters = fixed | {
        "folders": [folder for _, (folder, _) in sorted(members.items())],
        "interval": GRACE[stage.name],
        "values": tune.grid_search([values for _, (_, values) in sorted(members.items())]),
    }
    return {"scheduler": scheduler, "num_samples": 1}, parameters


def _run_tuner(
    stage: Stage,
    arguments: dict[str, Any],
    parameters: dict[str, Any],
    resources: Resources,
    concurrent: int,
    table: "Table",
) -> None:
    bundle = {"CPU": resources["cpus"], "GPU": resources["gpus"]}
    bundles = [{kind: n for kind, n in bundle.items() if n}] * resources["workers"]
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, storage=carried()), tune.PlacementGroupFactory(bundles)),
        param_space=parameters,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=None if stage.pbt else concurrent, trial_dirname_creator=_directory, **arguments
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(stage.home.path / "ray"),
            failure_config=tune.FailureConfig(max_failures=LOST),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS if stage.pbt else None),
            callbacks=[table],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(stage.home.path / "ray", ignore_errors=True)


def _settle_environment() -> None:
    """Tune: no files of its own loggers, no handler for Ctrl-C, no other working directory, no tracebacks of Ray's."""
    os.environ |= {
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_WARN_THRESHOLD_S": "30",
    }  # fmt: skip


def _sampler(distribution: Range) -> Any:
    low, high = distribution.low, distribution.high
    if distribution.whole:
        return (tune.lograndint if distribution.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if distribution.log else tune.uniform)(low, high)


def _inside(config: dict[str, Any], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """A member's changed values, put back between the ends of their ranges."""
    values = {}
    for key, value in config["values"].items():
        value = min(max(value, ranges[key].low), ranges[key].high)
        values[key] = round(value) if ranges[key].whole else value
    return config | {"values": values}


def most_reports(stage: str, base: Config) -> int:
    """Most reports that a trial of a stage can make."""
    return REPORTS_OF_A_FLOW if stage == "flow" else base.autoencoder.max_epochs


def _directory(trial: Trial) -> str:
    """Tune would name its folder of a trial after all settings and paths."""
    return trial.trial_id
