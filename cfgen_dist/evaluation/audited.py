"""An audit of the same cells, for a section of the report: what generated cells betray of the training data."""

from collections.abc import Sequence
from typing import Any

from cfgen_dist.evaluation.sources import Cells
from data_loaders.errors import BadInput
from data_loaders.records import Record, read_json
from data_loaders.storage import place, shown
from data_loaders.types import PathLike
from data_loaders.vouchers import unsealed

RECORD = "audit.json"


class AuditForm(Record):
    """What is read of an audit."""

    verdict: list[str]
    generated: dict[str, dict[str, Any]]
    floor: dict[str, dict[str, Any]] | None
    provenance: dict[str, dict[str, Any]]


def read_audit(path: PathLike, real: Cells, sources: Sequence[Cells]) -> dict[str, Any]:
    """What the report shows of an audit.

    Parameters
    ----------
    path : path-like
        The folder that `audit()` wrote.
    real : Cells
    sources : list of Cells
        Of the evaluation.

    Returns
    -------
    dict
        `path`, `verdict` (sentences), and `measures`: dicts of `title`, `value`, `low`, `high`, `p`, `real` (of real
        cells in their place) and `verdict`, None for what a measure does not have.

    Raises
    ------
    BadInput
        No audit is there, it is damaged, or it is of other cells.
    """
    record = place(path) / RECORD
    name = record.shown
    try:
        found: dict[str, Any] = unsealed(read_json(str(record), AuditForm, name), name)
    except FileNotFoundError:
        raise BadInput(
            f"{shown(path)}: no {RECORD} in it; expected the folder of an audit, made by `audit()`"
        ) from None
    for role, cells in (("real", [real]), ("generated", sources)):
        audited = found["provenance"].get(role, {})
        if not any(_is_same(audited, each) for each in cells):
            raise BadInput(
                f"{name}: the audit of other {role} cells, {audited.get('path')}; expected one of {cells[0].name}"
            )
    floor = found["floor"] or {}
    measures = [
        {"title": row.get("title", key), "real": floor.get(key, {}).get("value"), "verdict": row.get("verdict")}
        | {part: row.get(part) for part in ("value", "low", "high", "p")}
        for key, row in found["generated"].items()
    ]
    return {"path": shown(path), "verdict": found["verdict"], "measures": measures}


def _is_same(audited: Any, cells: Cells) -> bool:
    """Whether an audit is of these cells: by the fingerprint of their card, else by where they are."""
    card, own = audited.get("card"), cells.provenance["card"]
    if card and own:
        return bool(card.get("fingerprint") == own["fingerprint"])
    return bool(audited.get("path") == cells.provenance["path"])
