"""The report of a search: one page that holds everything."""

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from cfgen_dist.config import Config
from cfgen_dist.evaluation.trade_off import EXPLAINED, lines_of
from cfgen_dist.tuning import plots
from cfgen_dist.tuning.guidance import described, heading_of
from cfgen_dist.tuning.records import Report, Request, TrialRecord
from cfgen_dist.tuning.space import base_values, load_space
from cfgen_dist.tuning.trial import read_reports
from data_loaders.files import write_whole

TITLES = {"autoencoder": "Autoencoders", "flow": "Flows"}
STEPS = {"autoencoder": "epoch", "flow": "quarter of the training"}
SETTING_COLUMNS = {
    "worst": "worst distance", "average": "mean distance",
    "w2": "W2", "mmd": "linear MMD", "knn_f1": "10-NN F1", "coverage": "coverage",
    "correlation_error": "correlation error", "auc_genes": "AUC genes", "zeros": "zeros",
}  # fmt: skip


def write_report(
    path: Path,
    request: Request,
    trials: dict[str, list[TrialRecord]],
    bests: dict[str, TrialRecord],
    rows: list[dict[str, Any]],
    chosen: dict[str, Any],
    config: Config,
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
    request : Request
    trials : dict of str to list of TrialRecord
        Stage → its trials.
    bests : dict of str to TrialRecord
        Stage → the best of them.
    rows : list of dict
        Scores of guidance strengths and solver steps.
    chosen : dict
        One of them.
    config : Config
        The base, settled.
    """
    names = {"autoencoder": "held-out nats per cell", "flow": heading_of(request["objective"])}
    space, stages = load_space(request["space"], config), []
    for stage, records in trials.items():
        keys, best = space[stage], bests[stage]
        told = [record for record in records if record["objective"] is not None and record["status"] != "failed"]
        shares = plots.importances(told, keys)
        base = records[0]["objective"] if records[0]["status"] == "done" else None
        stages.append(
            {
                "title": TITLES[stage], "name": names[stage], "records": sorted(records, key=_rank), "keys": list(keys),
                "best": best, "base": base, "counts": _counts(records),
                "curves": plots.curves(
                    {record["number"]: _reports(record) for record in told}, best["number"], names[stage], STEPS[stage]
                ),
                "parallel": plots.parallel_coordinates(told, keys, best["number"], names[stage]) if keys else None,
                "importance": plots.importance_bars(shares) if shares else None,
                "few": len(told) < 10 * max(len(keys), 1),
            }
        )  # fmt: skip
    same_steps = [row for row in rows if row["steps"] == chosen["steps"]]
    base_settings = base_values(("sampling.guidance", "sampling.steps"), config)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "short": plots.short}
    template = environment.from_string((files("cfgen_dist.tuning") / "report.html").read_text(encoding="utf-8"))
    page = template.render(
        request=request, stages=stages, rows=rows, chosen=chosen, own=list(base_settings.values()),
        columns={key: title for key, title in SETTING_COLUMNS.items() if key in rows[0]}, explained=EXPLAINED,
        same_steps=same_steps, lines=lines_of([row | {"measures": row} for row in same_steps]),
        reached=described(request["objective"], chosen),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    write_whole(path, lambda file: file.write(page.encode()))


def _reports(record: TrialRecord) -> list[Report]:
    return [report for report in read_reports(Path(record["folder"])) if "copied_from" not in report]


def _counts(records: list[TrialRecord]) -> str:
    found = {status: sum(record["status"] == status for record in records) for status in ("done", "stopped", "failed")}
    words = {"done": "trained to the end", "stopped": "given up early", "failed": "failed"}
    return ", ".join(f"{n} {words[status]}" for status, n in found.items() if n)


def _rank(record: TrialRecord) -> tuple[bool, bool, float]:
    value = record["objective"]
    return record["status"] != "done", record["status"] == "failed", float("inf") if value is None else value


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "-".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.1f}" if 1000 <= abs(value) < 1e6 else f"{value:.5g}"
    return str(value)
