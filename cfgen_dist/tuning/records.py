"""What the steps of a search hand to each other: the request, what a trial gets, what became of it."""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import AllowInfNan, ConfigDict, Field

from data_loaders.errors import BadInput
from data_loaders.records import Record, Whole, parse_json, read_json, read_regular
from data_loaders.vouchers import unsealed

REQUEST, AUTOENCODER, SAMPLING = "tune.json", "best_autoencoder.json", "sampling.json"
BEST_WEIGHTS = "best_autoencoder.safetensors"
Time = Annotated[float, Field(ge=0, lt=1e12)]  # seconds since 1970


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


class SearchedAtlas(Record):
    """What `tune.json` says of the atlas."""

    path: str
    fingerprint: str


class RequestForm(Record):
    """The form of `tune.json`, a `Request`."""

    atlas: SearchedAtlas
    base: dict[str, Any]
    space: dict[str, dict[str, Any]]
    trials: Annotated[int, Field(ge=1)]
    scheduler: str
    objective: str
    seed: Whole
    workers: Annotated[int, Field(ge=1)]
    guidance: list[float]


class TrialForm(Record):
    """The form of `trial.json`."""

    values: dict[str, Any]
    started: Time


class ResultForm(Record):
    """The form of `result.json`."""

    model_config = ConfigDict(allow_inf_nan=True)

    status: Literal["done", "stopped", "failed", "unfinished"]
    finished: Time
    objective: float | None = None
    why: str = ""


class ReportForm(Record):
    """The form of a line of `reports.jsonl`. A training that diverges reports numbers that are none."""

    model_config = ConfigDict(allow_inf_nan=True)

    step: Whole
    objective: float
    time: Time


class BestForm(Record):
    """The form of `best_autoencoder.json`."""

    number: Whole
    values: dict[str, Any]


class SettingRow(Record):
    """Scores of a guidance strength with a number of steps; some may be no numbers."""

    guidance: float
    steps: Annotated[int, Field(ge=1)]
    error: Annotated[float, AllowInfNan()]
    worst: Annotated[float, AllowInfNan()]
    average: Annotated[float, AllowInfNan()]
    worst_measure: str
    distances: dict[str, Annotated[float, AllowInfNan()]]


class SamplingForm(Record):
    """The form of `sampling.json`."""

    rows: Annotated[list[SettingRow], Field(min_length=1)]
    chosen: SettingRow


def read_request(run: Path) -> Request:
    """The request of the search in a directory; BadInput when it is damaged or missing."""
    request: Request = _read(run / REQUEST, RequestForm, "give another directory")
    return request


def read_best_autoencoder(run: Path) -> dict[str, Any]:
    """Number and values of the best autoencoder of a search."""
    best: dict[str, Any] = _read(run / AUTOENCODER, BestForm, "without that file it is chosen again")
    return best


def read_sampling(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Scores of the sampling settings of a search, and the chosen one."""
    found = _read(run / SAMPLING, SamplingForm, "without that file they are scored again")
    return found["rows"], found["chosen"]


def read_trial(path: Path) -> dict[str, Any]:
    """What `trial.json` says: the values of a trial, and when it started."""
    facts: dict[str, Any] = _read(path, TrialForm, "remove the folder of that trial")
    return facts


def read_result(path: Path) -> dict[str, Any]:
    """What `result.json` says of how a trial ended; `unfinished` where there is none."""
    if not path.exists():
        return {"status": "unfinished"}
    result: dict[str, Any] = _read(path, ResultForm, "remove the folder of that trial")
    return result


def read_report_lines(path: Path) -> list[Report]:
    """The reports of a trial; lines that are damaged, or cut short by a kill, are left out."""
    reports: list[Report] = []
    try:
        text = read_regular(path, str(path)).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            report = parse_json(line, ReportForm, str(path), any_number=True)
        except BadInput:
            continue
        reports.append(report)
    return reports


def _read(path: Path, form: type[Record], way_on: str) -> Any:
    """A file of a search; BadInput when it is damaged or missing."""
    try:
        values = read_json(path, form, any_number=True)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; {way_on}") from None
    except BadInput as error:
        raise BadInput(f"{error}; {way_on}") from None
    return unsealed(values, str(path), way_on)
