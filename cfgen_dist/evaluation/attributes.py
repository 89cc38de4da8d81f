"""Cells by every other label, such as donor or condition, and by combinations of two labels: groups beside their floor.

A group has test, training and generated cells of the same composition by type, so that groups are judged by how their
cells look and not by which types they have. What it costs is bounded: so many labels, groups and cells, the largest
groups first.
"""

import hashlib
import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cfgen_dist.evaluation.inputs import Inputs
from cfgen_dist.evaluation.sources import Cells
from data_loaders.seeds import Evaluation, generator
from data_loaders.types import Array, Ints

ATTRIBUTES = 3  # labels beside that of the types, at most
GROUPS = 12  # of a label or of a combination, at most
FEWEST_CELLS = 30  # test and training cells that a group needs
MOST_CELLS = 200  # of a group in each set
SETS = 3  # of generated and of training cells, at most
ENOUGH = 0.9  # share of the wanted cells that every group gets when generated cells are split into several sets


@dataclass(frozen=True, eq=False)
class Grouping:
    """Cells by one label or by a combination of two; made by `choose_groupings`.

    Attributes
    ----------
    by : tuple of str
        The labels.
    n_groups : int
        Groups that test cells are of, the small ones among them.
    names : list of tuple of str (K,)
        The groups that are compared, the largest first.
    wanted : int array (K,)
        Cells of each in a set.
    have : int array (K,)
        Cells of each in the generated set that has fewest.
    rows, groups : dict of str to int array
        `test`, `generated-K`, `floor-K` → rows of the source, groups of these cells. Without generated sets that have
        no cells at all.
    source_of : dict of str to int
    strata : int array (n,)
        Of all real cells: group and type, -1 in no group that is compared. Empty without a control.
    wanted_strata : dict of int to int
        Stratum → cells of it in a set.
    n_types : int
        A stratum is `group * n_types + type`.
    """

    by: tuple[str, ...]
    n_groups: int
    names: list[tuple[str, ...]] = field(default_factory=list)
    wanted: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    have: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    rows: dict[str, Ints] = field(default_factory=dict)
    groups: dict[str, Ints] = field(default_factory=dict)
    source_of: dict[str, int] = field(default_factory=dict)
    strata: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    wanted_strata: dict[int, int] = field(default_factory=dict)
    n_types: int = 1

    @property
    def title(self) -> str:
        """The labels as a heading."""
        return " x ".join(self.by)

    def digest(self) -> str:
        """Of the labels and the rows."""
        found = hashlib.sha256(repr((self.by, self.names)).encode())
        for name in self.rows:
            found.update(self.rows[name].tobytes() + self.groups[name].tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class _Label:
    """A label of all cells: codes of the real cells and of each source, -1 for none; names of the codes."""

    codes: list[Ints]
    names: list[str]


def choose_groupings(
    inputs: Inputs, test: Ints, train: Ints, *, n_sets: Mapping[str, int], seed: int
) -> tuple[list[Grouping], list[str]]:
    """Choose the labels and combinations to compare cells by, their groups, and the cells of these.

    Parameters
    ----------
    inputs : Inputs
    test, train : int arrays
        Rows of the real cells.
    n_sets : dict of str to int
        `generated`, `floor`, `control` → sets of the evaluation.
    seed : int

    Returns
    -------
    groupings : list of Grouping
        First by the labels, then by combinations. A label none of whose groups can be compared has no groups; such a
        combination is left out.
    notes : list of str
    """
    real, sources = inputs.real, inputs.sources
    columns = [name for name in real.labels if name != real.label and all(name in cells.columns for cells in sources)]
    found = {name: _label([real, *sources], name) for name in columns}
    usable = [name for name in columns if _n_large(found[name].codes[0][test]) >= 2]
    notes = []
    if len(usable) > ATTRIBUTES:
        notes.append(f"Cells were compared by {ATTRIBUTES} further labels, not by {', '.join(usable[ATTRIBUTES:])}.")
    labels = {name: found[name] for name in usable[:ATTRIBUTES]}
    all_cells = (real, *sources)
    typed = {} if inputs.pooled else {real.label: _Label([each.codes for each in all_cells], real.types.tolist())}
    combinations = [(name,) for name in labels] + list(itertools.combinations([*typed, *labels], 2))
    types = next(iter(typed.values()), _Label([np.zeros(len(each), np.int32) for each in all_cells], [""]))
    groupings = []
    for by in combinations:
        parts = [(typed | labels)[name] for name in by]
        grouping = _grouping(by, parts, types, test, train, n_sets, seed, control=n_sets["control"] > 0)
        if len(by) == 1 or len(grouping.names) > 1:
            groupings.append(grouping)
    return groupings, notes


def _label(cells: Sequence[Cells], column: str) -> _Label:
    """A label of several sources, in the categories of the first; categories that it lacks are no label."""
    (codes, names), *others = (each.label_codes(column) for each in cells)
    place = {name: code for code, name in enumerate(names)}
    same = [np.array([place.get(name, -1) for name in found] + [-1])[given] for given, found in others]
    return _Label([codes, *same], names)


def _n_large(codes: Ints) -> int:
    """Groups with cells enough to be compared, as far as these test cells tell."""
    return int((np.unique(codes[codes >= 0], return_counts=True)[1] >= FEWEST_CELLS).sum())


def _grouping(
    by: tuple[str, ...], parts: Sequence[_Label], types: _Label, test: Ints, train: Ints, n_sets: Mapping[str, int],
    seed: int, control: bool,
) -> Grouping:  # fmt: skip
    """The groups of one label or combination, and their cells."""
    n_types = len(types.names)
    n_codes = math.prod(len(part.names) for part in parts) * n_types
    small = np.dtype(np.int32 if n_codes < 2**31 else np.int64)  # of large atlases these arrays are what costs memory
    strata: list[Ints] = []  # of the real cells and of each source: group and type
    for number, of_type in enumerate(types.codes):
        code, known = np.zeros(len(of_type), small), of_type >= 0
        for part in parts:
            code = code * len(part.names) + part.codes[number].astype(small)
            known = known & (part.codes[number] >= 0)
        strata.append(np.where(known, code * n_types + of_type.astype(small), -1))
    (in_test, n_test), (in_train, n_train) = (_tally(strata[0][rows]) for rows in (test, train))
    both, first, second = np.intersect1d(in_test, in_train, return_indices=True)
    fewer = np.minimum(n_test[first], n_train[second])
    n_groups = len(np.unique(in_test // n_types))
    groups, place = np.unique(both // n_types, return_inverse=True)
    sizes = np.bincount(place, fewer, len(groups)).astype(np.int64)
    chosen = [k for k in np.argsort(-sizes, kind="stable")[:GROUPS] if sizes[k] >= FEWEST_CELLS]
    if not chosen:
        return Grouping(by, n_groups)
    new = {int(groups[k]): number for number, k in enumerate(chosen)}
    share = {k: min(1.0, MOST_CELLS / sizes[k]) for k in chosen}
    wanted = {
        new[int(stratum) // n_types] * n_types + int(stratum) % n_types: max(1, int(n * share[k]))
        for stratum, k, n in zip(both, place, fewer, strict=True)
        if k in share
    }
    renamed = [_renamed(of_cells, new, n_types) for of_cells in strata]
    rows, source_of = _draw(renamed, wanted, len(chosen), test, train, n_sets, n_types, generator_of(by, seed))
    of_rows = {name: renamed[source_of[name]][chosen_rows] // n_types for name, chosen_rows in rows.items()}
    made = [np.bincount(of_rows[name], minlength=len(chosen)) for name in rows if name.startswith("generated")]
    some = [name for name in rows if len(rows[name])]
    return Grouping(
        by, n_groups, [_names(int(groups[k]), parts) for k in chosen], _by_group(wanted, len(chosen), n_types),
        np.min(made, axis=0), {name: rows[name] for name in some}, {name: of_rows[name] for name in some},
        {name: source_of[name] for name in some}, renamed[0] if control else renamed[0][:0], wanted, n_types,
    )  # fmt: skip


def generator_of(by: tuple[str, ...], seed: int) -> np.random.Generator:
    """The random numbers for the cells of a grouping."""
    return generator(seed, Evaluation.GROUPS, zlib.crc32("\0".join(by).encode()))


def _tally(strata: Ints) -> tuple[Ints, Ints]:
    """Strata of cells that are in one, ascending, and cells of each."""
    values, counts = np.unique(strata[strata >= 0], return_counts=True)
    return values, counts


def _renamed(strata: Ints, new: Mapping[int, int], n_types: int) -> Ints:
    """The strata with new numbers for groups, -1 for other groups."""
    old = np.array(sorted(new))
    number = np.array([new[group] for group in old])
    group = strata // n_types  # -1 stays -1
    found = np.searchsorted(old, group).clip(max=len(old) - 1)
    return np.where(old[found] == group, number[found] * n_types + strata % n_types, -1).astype(np.int32)


def _names(code: int, parts: Sequence[_Label]) -> tuple[str, ...]:
    """The names of a group, one for each label."""
    found = []
    for part in reversed(parts):
        code, place = divmod(code, len(part.names))
        found.append(part.names[place])
    return tuple(reversed(found))


def _by_group(wanted: Mapping[int, int], n_groups: int, n_types: int) -> Ints:
    sizes = np.zeros(n_groups, np.int64)
    for stratum, n in wanted.items():
        sizes[stratum // n_types] += n
    return sizes


def _draw(
    strata: Sequence[Ints], wanted: Mapping[int, int], n_groups: int, test: Ints, train: Ints,
    n_sets: Mapping[str, int], n_types: int, rng: np.random.Generator,
) -> tuple[dict[str, Ints], dict[str, int]]:  # fmt: skip
    """Rows of each set, ascending, and the numbers of their sources."""
    segments = [_segments(of_cells, wanted) for of_cells in strata[1:]]
    several = len(segments) > 1
    n_made = min(SETS, n_sets["generated"])
    if not several:
        full = _by_group(wanted, n_groups, n_types)

        def suffices(n: int) -> bool:
            got = _by_group({s: min(k, len(segments[0][s]) // n) for s, k in wanted.items()}, n_groups, n_types)
            there = _by_group({s: len(segments[0][s]) for s in wanted}, n_groups, n_types) > 0
            return bool((got >= ENOUGH * full)[there].all())

        n_made = next((n for n in range(n_made, 1, -1) if suffices(n)), 1)
    rows, source_of = {"test": _sets(_segments(strata[0], wanted, test), wanted, 1, rng)[0]}, {"test": 0}
    for number, of_source in enumerate(segments[:n_made] if several else segments, 1):
        for chosen in _sets(of_source, wanted, 1 if several else n_made, rng):
            source_of[name := f"generated-{len(rows) - 1}"], rows[name] = number, chosen
    trained = _segments(strata[0], wanted, train)
    for draw in range(min(SETS, n_sets["floor"])):
        source_of[name := f"floor-{draw}"], rows[name] = 0, _sets(trained, wanted, 1, rng)[0]
    return rows, source_of


def _segments(strata: Ints, wanted: Mapping[int, int], rows: Ints | None = None) -> dict[int, Ints]:
    """The rows of each stratum that is wanted, of some rows or of all."""
    rows = np.arange(len(strata)) if rows is None else rows
    given = strata[rows]
    order = np.argsort(given, kind="stable")
    kinds = np.array(sorted(wanted))
    first, last = (np.searchsorted(given[order], kinds, side) for side in ("left", "right"))
    return {int(kind): rows[order[a:b]] for kind, a, b in zip(kinds, first, last, strict=True)}


def _sets(segments: Mapping[int, Ints], wanted: Mapping[int, int], sets: int, rng: np.random.Generator) -> list[Ints]:
    """Disjoint random sets of cells of the strata, as `selection.matched_rows`."""
    chosen: list[list[Array]] = [[] for _ in range(sets)]
    for stratum in sorted(wanted):
        cells = segments[stratum]
        size = min(wanted[stratum], len(cells) // sets)
        picks = cells[rng.choice(len(cells), size * sets, replace=False)] if size else cells[:0]
        for k in range(sets):
            chosen[k].append(picks[k * size : (k + 1) * size])
    return [np.sort(np.concatenate(parts)) for parts in chosen]
