"""The trials as they go: a live table on a terminal, a line for each that ends otherwise."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from cfgen_dist.tuning.guidance import heading_of
from cfgen_dist.tuning.records import TrialRecord

log = logging.getLogger("cfgen_dist")
SHOWN = 12  # rows: those that run, then the best
SECONDS_OF_SILENCE = (8, 60)  # before it is said that there is no room for any trial; before that is repeated
OBJECTIVE = {"autoencoder": "held-out nats per cell"}


class Table(Callback):
    """Tune calls it at every report; what it shows is read from the trials' folders.

    Parameters
    ----------
    run : Path
    read : callable
        Takes the folder of a stage, returns its trials, as `read_trials`.
    objective : str
        Of the flow, for the heading.
    """

    def __init__(self, run: Path, read: Callable[[Path], list[TrialRecord]], objective: str) -> None:
        self.run, self.read, self.titles = run, read, OBJECTIVE | {"flow": heading_of(objective)}
        self.told: set[int] = set()
        self.live: Live | None = None
        self.stage, self.total, self.heard, self.patience = "", 0, time.monotonic(), SECONDS_OF_SILENCE[0]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"live": None}  # Tune writes its callbacks into its snapshots

    def start(self, stage: str, total: int) -> None:
        """Begin with a stage of so many trials."""
        self.stage, self.total, self.heard = stage, total, time.monotonic()
        self.told = {record["number"] for record in self._records() if record["status"] != "unfinished"}
        if self.told:
            log.info("%s: %d of %d trials are finished already", stage, len(self.told), total)
        console = Console(stderr=True)
        if console.is_terminal:
            self.live = Live(self._drawn(), console=console, refresh_per_second=1)
            self.live.start()

    def done(self, stage: str) -> None:
        """End with the stage: leave the table, name the best."""
        self.stop()
        done = [record for record in self._records() if record["status"] == "done"]
        if done:
            best = min(done, key=_objective)
            log.info("%s: trial %d is the best, %.4g %s", stage, best["number"], best["objective"], self.titles[stage])

    def stop(self) -> None:
        """Give the terminal back."""
        if self.live:
            self.live.update(self._drawn())
            self.live.stop()
            self.live = None

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the new value."""
        self._show()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show the new trial."""
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show how it ended."""
        self._show()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show that it was lost."""
        self._show()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Say that there is no room for any trial, or that the first has not started yet."""
        first, later = SECONDS_OF_SILENCE
        if any(trial.status == "RUNNING" for trial in trials):
            self.heard, self.patience = time.monotonic(), first
        elif time.monotonic() - self.heard > self.patience:
            log.info("waiting for the cluster to have room for a trial")
            self.heard, self.patience = time.monotonic(), later

    def _show(self) -> None:
        if self.live:
            self.live.update(self._drawn())
            return
        for record in self._records():
            if record["status"] != "unfinished" and record["number"] not in self.told:
                self.told.add(record["number"])
                log.info("%s", self._line(record))

    def _records(self) -> list[TrialRecord]:
        return self.read(self.run / self.stage)

    def _line(self, record: TrialRecord) -> str:
        value = f", {record['objective']:.4g}" if record["objective"] is not None else ""
        reason = f" ({record['why']})" if record.get("why") else ""
        return (
            f"{self.stage} trial {record['number']} ({len(self.told)} of {self.total}): "
            f"{record['status']} after {record['steps']} reports, {record['seconds']:.0f} s{value}{reason}"
        )

    def _drawn(self) -> RichTable:
        records = self._records()
        finished = sum(record["status"] != "unfinished" for record in records)
        table = RichTable(title=f"{self.stage}: {finished} of {self.total} trials, {self.titles[self.stage]}")
        keys = list(records[0]["values"]) if records else []
        for name in ("trial", "status", "reports", "seconds", "objective", *(key.rpartition(".")[2] for key in keys)):
            table.add_column(name)
        running = [record for record in records if record["status"] == "unfinished"]
        rest = [record for record in records if record["status"] != "unfinished"]
        rest.sort(key=lambda record: (record["status"] != "done", _objective(record)))
        for record in (running + rest)[:SHOWN]:
            status = "running" if record["status"] == "unfinished" else record["status"]
            value = "" if record["objective"] is None else f"{record['objective']:.5g}"
            cells = [str(record["number"]), status, str(record["steps"]), f"{record['seconds']:.0f}", value]
            table.add_row(*cells, *(_short(record["values"].get(key)) for key in keys))
        return table


def _objective(record: TrialRecord) -> float:
    return math.inf if record["objective"] is None else record["objective"]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
