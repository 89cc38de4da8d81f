"""What is tried next and what is given up early: Optuna's suggestions with ASHA, or population-based training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from cfgen_dist.training.folder import RunFolder
from cfgen_dist.tuning.distributions import Keys, decode, encode, to_optuna
from cfgen_dist.tuning.records import TrialRecord
from cfgen_dist.tuning.trial import RESULT, WATCHED, read_reports
from cfgen_dist.tuning.trials import end_trial, keep_best, new_trial, read_trials

LOST = 3  # processes of one trial that may be lost before it counts as failed


class Suggest(Searcher):
    """Optuna's tree-structured Parzen estimator, the base first, knowing all trials there are.

    Parameters
    ----------
    home : RunFolder
        Of the search.
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
        home: RunFolder,
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
        self.home, self.looked = home, set[str]()
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
            folder = new_trial(self.folder, self.next, values, self.home)
            self.next += 1
        self.running[trial_id] = folder, asked
        return {**self.fixed, "folder": self.home.address(folder), "values": values}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how it ended, if it could not say so itself, and let the study learn from it."""
        if trial_id not in self.running:
            return
        folder, asked = self.running.pop(trial_id)
        self.home.pull(*WATCHED)
        if not (folder / RESULT).exists():
            reports = read_reports(folder)
            if error or not reports:
                end_trial(self.home, folder, "failed", why=f"its process was lost more than {LOST} times")
            else:
                end_trial(self.home, folder, "stopped", objective=reports[-1]["objective"])
        keep_best(self.home, self.folder, self.looked)
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
    """ASHA that knows the trials of before, and lets the base run to its end: it is what all are compared with."""

    def remember(self, known: list[TrialRecord]) -> None:
        """Put what finished trials had reached on the rungs."""
        for record in known:
            for report in read_reports(Path(record["folder"])):
                trial = cast(Trial, SimpleNamespace(trial_id=record["folder"]))  # a bracket wants no more of it
                self._brackets[0].on_result(trial, report["step"], -report["objective"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """ASHA's own decision, but for the base."""
        action = super().on_trial_result(tune_controller, trial, result)
        is_base = Path(trial.config["folder"]).name == "0000"
        return TrialScheduler.CONTINUE if is_base else action


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
