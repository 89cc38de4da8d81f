"""What the steps of a search hand to each other: the request, what a trial gets, what became of it."""

from typing import Any, NotRequired, TypedDict


class Request(TypedDict):
    """A whole search, as `tune.json` keeps it; a resumed one must ask for the same."""

    atlas: dict[str, Any]
    base: dict[str, Any]
    space: dict[str, dict[str, Any]]
    trials: int
    scheduler: str
    objective: str
    seed: int
    workers: int
    guidance: list[float]


class Resources(TypedDict):
    """Processes of a trial, and what each of them gets."""

    workers: int
    cpus: int
    gpus: float


class TrialRecord(TypedDict):
    """A trial, as its folder tells it; `objective` is None without a report."""

    number: int
    folder: str
    values: dict[str, Any]
    started: float
    status: str  # done, stopped, failed or unfinished
    objective: float | None
    steps: int
    seconds: float
    finished: NotRequired[float]
    why: NotRequired[str]


Report = dict[str, Any]  # `step`, `objective`, `time` and whatever metrics belong to it; a line of `reports.jsonl`
