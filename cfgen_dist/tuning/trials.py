"""The folders of the trials of a stage: what each holds, which is the best, and a new one."""

import math
import time
from pathlib import Path
from typing import Any

from cfgen_dist.training.folder import RunFolder
from cfgen_dist.training.saves import POINTER, SAVED
from cfgen_dist.tuning.records import TrialRecord, read_result, read_trial
from cfgen_dist.tuning.trial import RESULT, TRIAL, WEIGHTS, finish, read_reports
from data_loaders.vouchers import SUFFIX, write_sealed


def read_trials(folder: Path) -> list[TrialRecord]:
    """What is known of every trial of a stage, in order.

    Returns
    -------
    list of TrialRecord
    """
    records: list[TrialRecord] = []
    for path in trial_folders(folder):
        facts = read_trial(path / TRIAL)
        reports = read_reports(path)
        result = read_result(path / RESULT)
        ended = result.get("finished", reports[-1]["time"] if reports else facts["started"])
        measured = {
            "number": int(path.name),
            "folder": str(path),
            "steps": max((report["step"] for report in reports), default=0),
            "objective": reports[-1]["objective"] if reports else None,
        }
        record: Any = facts | measured | result | {"seconds": ended - facts["started"]}
        records.append(record)
    return records


def best_trial(folder: Path) -> TrialRecord | None:
    """The trial with the lowest objective among those that were trained to their end; None without any."""
    done = [record for record in read_trials(folder) if record["status"] == "done"]
    return min(done, key=_objective, default=None)


def _objective(record: TrialRecord) -> float:
    return math.inf if record["objective"] is None else record["objective"]


def new_trial(stage: Path, number: int, values: dict[str, Any], home: RunFolder | None = None) -> Path:
    """Make the folder of a trial, in the search's: from now on it exists."""
    folder = stage / f"{number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"values": values, "started": time.time()}
    write_sealed(folder / TRIAL, facts, indent=1)
    if home is not None:
        home.put(f"{stage.name}/{folder.name}/{TRIAL}")
    return folder


def end_trial(home: RunFolder, folder: Path, status: str, **facts: Any) -> None:
    """Write how a trial ended that could not say so itself."""
    finish(folder, status, **facts)
    name = f"{folder.parent.name}/{folder.name}"
    home.put(f"{name}/{RESULT}")
    home.remove(f"{name}/{POINTER}", f"{name}/{SAVED}")


def trial_folders(folder: Path) -> list[Path]:
    """Folders of the trials of a stage, in order."""
    return sorted(path.parent for path in folder.glob(f"*/{TRIAL}") if path.parent.name.isdecimal())


def keep_best(home: RunFolder, folder: Path, looked: set[str]) -> None:
    """Weights of the best trial stay, those of the others go: disk does not grow with the trials.

    Parameters
    ----------
    home : RunFolder
        Of the search.
    folder : Path
        Of the stage.
    looked : set of str
        Trials whose weights are gone already; those that go now are added.
    """
    best = best_trial(folder)
    for path in trial_folders(folder):
        if best is not None and str(path) != best["folder"] and (path / RESULT).exists() and path.name not in looked:
            for name in (WEIGHTS, WEIGHTS + SUFFIX):
                (path / name).unlink(missing_ok=True)
                home.remove(f"{folder.name}/{path.name}/{name}")
            looked.add(path.name)
