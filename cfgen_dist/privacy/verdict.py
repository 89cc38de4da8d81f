"""The verdict of an audit: which measures are above chance and above real cells, and which leaks it would see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfgen_dist.evaluation.copies import Copies
from cfgen_dist.privacy.attacks import ATTACKS, Interval
from cfgen_dist.privacy.planted import DRAWS, KINDS, LEVEL, SEEN_BY

TITLES = {
    "nearest_is_training": "nearest real cell is a training cell",
    "distance": "distance",
    "gan_leaks": "GAN-leaks",
    "domias": "DOMIAS",
    "overlap": "counts in common",
    "near_copies": "near copies",
}
CHANCE, REAL, ABOVE = "chance", "as real cells", "above"
WORDS = {CHANCE: "at chance", REAL: "no more than other real cells give", ABOVE: "above"}
DONORS = "donors."  # before the name of an attack on donors
SURE = 0.9  # share of the planted leaks in which one is seen


def title_of(name: str) -> str:
    """What a measure is called; those of donors say so."""
    kind, _, attack = name.rpartition(".")
    return f"{TITLES[attack]}, donors" if kind else TITLES[attack]


def judge(name: str, found: Interval, floor: Interval | None, alike: float | None = None) -> str:
    """Compare a measure with chance, and with real cells in the place of generated ones.

    Donors are another matter than cells: other real cells of a donor betray it, so that generated ones do no better is
    no excuse.

    Parameters
    ----------
    name : str
    found : dict
        Of generated cells: `value`, `low`, `high`; of near copies `value` and `p`.
    floor : dict or None
        Of real cells that are no members.
    alike : float, optional
        Its value for as many generated cells as the floor has.

    Returns
    -------
    str
        `chance`: the interval reaches 0.5 (near copies: p is 0.01 or more); `as real cells`: it does not, but the value
        of as many cells is within the interval of the floor or below, never of donors and of near copies; `above`:
        neither.
    """
    if name == "near_copies":
        return CHANCE if (found["p"] or 0.0) >= LEVEL else ABOVE
    if found["low"] is None or found["low"] <= 0.5:
        return CHANCE
    if floor is None or name.startswith(DONORS):
        return ABOVE
    value = found["value"] if alike is None else alike
    return REAL if _number(value) <= _number(floor["high"]) else ABOVE


def sentences(result: Mapping[str, Any], copies: Copies) -> list[str]:
    """The verdict in words.

    Parameters
    ----------
    result : dict
        `generated` and `floor` measures with their `verdict`, `power`, `cells`, `by`.
    copies : Copies
        Of the generated cells.

    Returns
    -------
    list of str
    """
    found, floor = result["generated"], result["floor"]
    above = [name for name, row in found.items() if row["verdict"] == ABOVE]
    of_cells = bool(copies.warnings()) or not all(name.startswith(DONORS) for name in above)
    of_donors = any(name.startswith(DONORS) for name in above)
    betrayed = [
        what
        for what, is_so in (("training cells", of_cells), (f"which {result['by']} was in training", of_donors))
        if is_so
    ]
    strongest = max((name for name in above if name != "near_copies"), key=lambda n: found[n]["value"], default=None)
    how = f" ({TITLES[strongest.removeprefix(DONORS)]} {found[strongest]['value']:.2f})" if strongest else ""
    what = f"Generated cells betray {' and '.join(betrayed)}{how}" if betrayed else "Nothing betrays the training data"
    counts = {verdict: sum(row["verdict"] == verdict for row in found.values()) for verdict in WORDS}
    parts = ", ".join(f"{n} {WORDS[verdict]}" for verdict, n in counts.items() if n)
    exact = f"{copies.n_copies:,} of {copies.n_cells:,} cells are exact copies of real ones"
    lines = [f"{what}: {exact}; of {len(found)} measures, {parts}."]
    near = found["near_copies"]
    lines.append(
        f"Near copies: {near['value']:,} of {result['cells']['members']:,} training cells have more counts in common "
        f"with a generated cell than all but {near['expected'] - 1} held-out cells have; chance gives "
        f"{near['expected']} (p = {near['p']:.2g}"
        + _real(floor, "near_copies", ", real cells in their place: {value:,}")
        + ")."
    )
    share = "nearest_is_training"
    lines.append(
        f"The nearest real cell is a training cell for {_with_interval(found[share])} of the generated cells (0.5 is "
        f"chance{_real(floor, share, ', real cells in their place: {value:.3f}')})."
    )
    lines.append("Attacks on cells, area under the curve: " + _list(found, floor, ATTACKS, "") + ".")
    if result["by"]:
        donors = result["cells"]["donors"]
        lines.append(
            f"Attacks on {result['by']}, {donors['training']} of training against {donors['held_out']} held out: "
            + _list(found, floor, ATTACKS, DONORS)
            + "."
        )
    return lines + _of_power(result["power"])


def _of_power(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The smallest planted leak of each kind that was seen."""
    parts = []
    for kind in KINDS:
        seen = [
            (row["share"], name, row["seen"][name])
            for row in rows
            if row["kind"] == kind
            for name in sorted(SEEN_BY, key=lambda name: -row["seen"][name])[:1]
            if row["seen"][name] >= SURE
        ]
        if seen:
            share, name, often = min(seen)
            parts.append(f"{share:.1%} of them {kind} (by {TITLES[name]}, {often * DRAWS:.0f} of {DRAWS} times)")
        else:
            parts.append(f"none {kind}")
    return [f"The smallest planted leaks of training cells that this audit sees: {', '.join(parts)}."] if rows else []


def _list(
    found: Mapping[str, Interval], floor: Mapping[str, Interval] | None, names: Sequence[str], prefix: str
) -> str:
    return "; ".join(
        f"{TITLES[name]} {_with_interval(found[prefix + name])}"
        + _real(floor, prefix + name, ", real cells in their place {value:.3f}")
        for name in names
    )


def _with_interval(row: Interval) -> str:
    low, high = (_number(row[end]) for end in ("low", "high"))
    return f"{_number(row['value']):.3f} [{low:.3f}, {high:.3f}]"


def _real(floor: Mapping[str, Interval] | None, name: str, words: str) -> str:
    return "" if floor is None else words.format(value=_number(floor[name]["value"]))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
