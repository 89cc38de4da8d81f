"""The trade-off between some settings as a table: a line a measure, a column a setting, distances to the floor beside.

Terminal, CSV and reports of `tune` and `guide` show the same lines.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cfgen_dist.evaluation.metrics import catalogue
from cfgen_dist.evaluation.verdict import number

if TYPE_CHECKING:
    from rich.table import Table

WORST_LINE, AVERAGE_LINE = "Worst distance to the floor", "Mean distance to the floor"
EXPLAINED = (
    "In brackets how much worse than the floor (real cells in place of generated ones), in units of the floor's "
    "spread over sets, or of a tenth of the measure's tolerance where that is more; 0 is no worse."
)


class Line(NamedTuple):
    """One line of the table.

    Attributes
    ----------
    title : str
    cells : list of str
        One of each setting: the value, and in brackets the distance to the floor.
    worst : list of bool
        Whether this measure is the setting's worst.
    """

    title: str
    cells: list[str]
    worst: list[bool]


def lines_of(settings: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The lines: the worst distance, the mean distance, then every measure in the order of the catalogue.

    Parameters
    ----------
    settings : list of dict
        Each with `measures` and `distances` (both by key of the catalogue), `worst`, `worst_measure` and `average`.
    """
    plain = [False] * len(settings)
    lines = [
        Line(WORST_LINE, [_units(setting["worst"]) for setting in settings], plain),
        Line(AVERAGE_LINE, [_units(setting["average"]) for setting in settings], plain),
    ]
    for metric in catalogue.METRICS:
        if any(metric.key in setting["distances"] for setting in settings):
            cells = [
                f"{number(setting['measures'].get(metric.key))} ({_units(setting['distances'].get(metric.key))})"
                for setting in settings
            ]
            lines.append(Line(metric.title, cells, [setting["worst_measure"] == metric.key for setting in settings]))
    return lines


def as_table(title: str, headings: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> "Table":
    """The lines for a terminal; each setting's worst measure is marked by a star."""
    from rich.table import Table

    table = Table("measure", title=title, caption=EXPLAINED + " *: the worst of its column.", caption_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    for line in lines_of(settings):
        table.add_row(line.title, *(f"*{cell}" if w else cell for cell, w in zip(line.cells, line.worst, strict=True)))
    return table


def columns_of(setting: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A setting as columns of a CSV file: the distances summed up, then value and distance of every measure.

    `prefix` goes before the names of the measures.
    """
    row = {key: setting[key] for key in ("worst", "worst_measure", "average")}
    for key, distance in setting["distances"].items():
        row |= {f"{prefix}{key}": setting["measures"].get(key), f"{prefix}{key}_distance": distance}
    return row


def _units(distance: float | None) -> str:
    return "-" if distance is None else f"{distance:.1f}"
