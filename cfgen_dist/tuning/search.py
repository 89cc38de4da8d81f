"""One stage of a search on Ray Tune: what is tried next, what is given up early, what is already known.

The trials' folders are the only state. Tune's own snapshots lag behind by seconds, so a resumed search does not use
them: it reads the folders, tells the search and the scheduler what they hold, goes on with the unfinished trials and
then with new ones. None is lost and none is done twice.
"""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from cfgen_dist.config import Config
from cfgen_dist.tuning.distributions import Keys, Range, decode, encode, to_optuna
from cfgen_dist.tuning.on_ray import run_trial
from cfgen_dist.tuning.records import Resources, TrialRecord
from cfgen_dist.tuning.trial import REPORTS_OF_A_FLOW, RESULT, TRIAL, WEIGHTS, finish, read_reports
from data_loaders.errors import BadInput
from data_loaders.files import write_whole

if TYPE_CHECKING:
    from cfgen_dist.tuning.table import Table

LOST = 3  # processes of one trial that may be lost before it counts as failed
GRACE = {"autoencoder": 5, "flow": 1}  # reports before a trial may be given up, or members of a population compared
REDUCTION = {"autoencoder": 3, "flow": 2}  # of so many trials one goes on at each rung
KEPT_CHECKPOINTS = 4  # of a member. Members wait for each other, so a donor is at most one checkpoint ahead


@dataclass(frozen=True)
class Stage:
    """One of the searches of trainings.

    Attributes
    ----------
    name : {"autoencoder", "flow"}
    run : Path
        The search's directory; the trials are in `folder`, `run/name/NNNN`.
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
    run: Path
    keys: Keys
    base: dict[str, Any]
    trials: int
    longest: int
    pbt: bool
    seed: int

    @property
    def folder(self) -> Path:
        """Where the trials are."""
        return self.run / self.name


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
    records = read_trials(stage.folder)
    left = [record for record in records if record["status"] == "unfinished"]
    known = [record for record in records if record["status"] != "unfinished"]
    if stage.trials > len(known):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _settle_environment()
            _keep_best(stage.folder)
            fixed = {"run": str(stage.run), "stage": stage.name, **resources}
            strategy = _population if stage.pbt else _halving
            _run_tuner(stage, *strategy(stage, fixed, known, left), resources, concurrent, table)
            for folder in _folders(stage.folder):  # one that Tune gave up without a word to the search
                if not (folder / RESULT).exists():
                    finish(folder, "failed", why=f"its process was lost more than {LOST} times")
    _keep_best(stage.folder)
    table.done(stage.name)
    best = best_trial(stage.folder)
    if best is None:
        reasons = [record["why"] for record in read_trials(stage.folder) if record.get("why")]
        why = reasons[0] if reasons else "nothing"
        raise BadInput(f"{stage.folder}: no trial has succeeded; the first says: {why}")
    return best


def read_trials(folder: Path) -> list[TrialRecord]:
    """What is known of every trial of a stage, in order.

    Returns
    -------
    list of TrialRecord
    """
    records: list[TrialRecord] = []
    for path in _folders(folder):
        facts = json.loads((path / TRIAL).read_text())
        reports = read_reports(path)
        result = json.loads((path / RESULT).read_text()) if (path / RESULT).exists() else {"status": "unfinished"}
        ended = result.get("finished", reports[-1]["time"] if reports else facts["started"])
        measured = {
            "number": int(path.name),
            "folder": str(path),
            "steps": max((report["step"] for report in reports), default=0),
            "objective": reports[-1]["objective"] if reports else None,
        }
        record: TrialRecord = facts | measured | result | {"seconds": ended - facts["started"]}
        records.append(record)
    return records


def best_trial(folder: Path) -> TrialRecord | None:
    """The trial with the lowest objective among those that were trained to their end; None without any."""
    done = [record for record in read_trials(folder) if record["status"] == "done"]
    return min(done, key=_objective, default=None)


def _objective(record: TrialRecord) -> float:
    return math.inf if record["objective"] is None else record["objective"]


class Suggest(Searcher):
    """Optuna's tree-structured Parzen estimator, the base first, knowing all trials there are.

    Parameters
    ----------
    folder : Path
        Of the stage.
    keys, base, fixed : dict
        See `search`; `fixed` is what every trial is told.
    seed, trials : int
    known, left : list of dict
        Finished and unfinished trials of an interrupted search.
    """

    def __init__(
        self,
        folder: Path,
        keys: Keys,
        base: dict[str, Any],
        fixed: dict[str, Any],
        seed: int,
        trials: int,
        known: list[TrialRecord],
        left: list[TrialRecord],
    ) -> None:
        import optuna

        super().__init__(metric="objective", mode="min")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Purely random ones first, a quarter of the trials, at least three; seeded anew after an interruption.
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(known), n_startup_trials=max(3, trials // 4), multivariate=True, constant_liar=True
        )
        self.optuna, self.study = optuna, optuna.create_study(sampler=sampler)
        self.folder, self.keys, self.base, self.fixed = folder, keys, base, fixed
        self.distributions = to_optuna(keys)
        self.left = list(left)
        self.running: dict[str, tuple[Path, Any]] = {}  # trial of Tune → its folder, what Optuna was asked
        self.next = len(known) + len(left)
        for record in known:
            self._learn(record)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """What Tune is to start next, already noted on disk."""
        if self.left:
            record, asked = self.left.pop(0), None
            folder, values = Path(record["folder"]), record["values"]
        else:
            values, asked = self.base, None
            if self.next > 0:
                asked = self.study.ask(self.distributions)
                values = decode(asked.params, self.keys)
            folder = new_trial(self.folder, self.next, values)
            self.next += 1
        self.running[trial_id] = folder, asked
        return {**self.fixed, "folder": str(folder), "values": values}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how it ended, if it could not say so itself, and let the study learn from it."""
        if trial_id not in self.running:
            return
        folder, asked = self.running.pop(trial_id)
        if not (folder / RESULT).exists():
            reports = read_reports(folder)
            if error or not reports:
                finish(folder, "failed", why=f"its process was lost more than {LOST} times")
            else:
                finish(folder, "stopped", objective=reports[-1]["objective"])
        _keep_best(self.folder)
        record = next(record for record in read_trials(self.folder) if record["folder"] == str(folder))
        self._learn(record, asked)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see the module."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def _learn(self, record: TrialRecord, asked: Any = None) -> None:
        states = self.optuna.trial.TrialState
        state = {"done": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}[record["status"]]
        reports = {report["step"]: report["objective"] for report in read_reports(Path(record["folder"]))}
        if asked is not None:
            for step, value in reports.items():
                asked.report(value, step)
            self.study.tell(asked, record["objective"] if state == states.COMPLETE else None, state=state)
        elif (params := encode(record["values"], self.keys)) is not None:  # the preset may lie outside
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=state, params=params, distributions=self.distributions, intermediate_values=reports,
                    value=record["objective"] if state != states.FAIL else None,
                )
            )  # fmt: skip


class Halving(ASHAScheduler):
    """ASHA that knows the trials of before, and lets the preset run to its end: it is what all are compared with."""

    def remember(self, known: list[TrialRecord]) -> None:
        """Put what finished trials had reached on the rungs."""
        for record in known:
            for report in read_reports(Path(record["folder"])):
                trial = cast(Trial, SimpleNamespace(trial_id=record["folder"]))  # a bracket wants no more of it
                self._brackets[0].on_result(trial, report["step"], -report["objective"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """ASHA's own decision, but for the preset."""
        action = super().on_trial_result(tune_controller, trial, result)
        is_preset = Path(trial.config["folder"]).name == "0000"
        return TrialScheduler.CONTINUE if is_preset else action


class Population(PopulationBasedTraining):
    """Ray's synchronous population-based training, but for two things that stop or spoil it here."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Ray's own decision, only at steps that have a checkpoint to pause at: a resumed member begins in between."""
        if result.get("step", 0) % self._perturbation_interval:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next member; if those that are left all wait, they are compared first.

        Ray compares when the last one reports, so one that ended instead (early, or by an error) was awaited for ever.
        """
        live = [member for member in tune_controller.get_trials() if not member.is_finished()]
        chosen = super().choose_trial_to_run(tune_controller)
        if chosen is None and live and all(member.status == Trial.PAUSED for member in live):
            super().on_trial_result(tune_controller, live[0], self._trial_state[live[0]].last_result or {})
            chosen = super().choose_trial_to_run(tune_controller) or live[0]
        return chosen


def new_trial(stage: Path, number: int, values: dict[str, Any]) -> Path:
    """Make the folder of a trial: from now on it exists."""
    folder = stage / f"{number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"values": values, "started": time.time()}
    write_whole(folder / TRIAL, lambda file: file.write(json.dumps(facts, indent=1).encode()))
    return folder


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
    suggest = Suggest(stage.folder, stage.keys, stage.base, fixed, stage.seed, stage.trials, known, left)
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
            members[number] = str(new_trial(stage.folder, number, values)), values
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
        tune.with_resources(run_trial, tune.PlacementGroupFactory(bundles)),
        param_space=parameters,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=None if stage.pbt else concurrent, trial_dirname_creator=_directory, **arguments
        ),
        run_config=tune.RunConfig(
            name=f"{time.time_ns()}",
            storage_path=str(stage.run / "ray"),
            failure_config=tune.FailureConfig(max_failures=LOST),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS if stage.pbt else None),
            callbacks=[table],
            verbose=0,
        ),
    )
    tuner.fit()
    shutil.rmtree(stage.run / "ray", ignore_errors=True)


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


def _folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{TRIAL}"))


def _keep_best(folder: Path) -> None:
    """Weights of the best trial stay, those of the others go: disk does not grow with the trials."""
    best = best_trial(folder)
    for path in _folders(folder):
        if best is not None and str(path) != best["folder"]:
            (path / WEIGHTS).unlink(missing_ok=True) if (path / RESULT).exists() else None


def most_reports(stage: str, base: Config) -> int:
    """Most reports that a trial of a stage can make."""
    return REPORTS_OF_A_FLOW if stage == "flow" else base.autoencoder.max_epochs


def _directory(trial: Trial) -> str:
    """Tune would name its folder of a trial after all settings and paths."""
    return trial.trial_id
