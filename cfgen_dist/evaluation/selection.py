"""Which cells are compared: sets of generated and of training cells, drawn alike, against the test cells.

All of it follows from the labels, the splits and the seed; no count is read. How many cells of each type a set has is a
matter of the real cells alone: as many as there are test cells, or training cells where they are fewer. So the floor is
the same whatever was generated, and what a generator lacks is its own failing.
"""

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cfgen_dist.evaluation.metrics.structure import CORRELATION_CELLS
from cfgen_dist.evaluation.sources import Cells
from cfgen_dist.evaluation.workspace import MATCHED
from data_loaders.errors import BadInput
from data_loaders.seeds import Evaluation, generator
from data_loaders.types import Array, Ints

FEW_CELLS = 10  # below this a type's own numbers are mostly noise: the report says so
THIN = 0.5  # a type is thin when a generated set has a smaller share than this of the cells wanted


@dataclass(frozen=True)
class Lacking:
    """What generated sets lack, and what the real cells lack to judge them.

    Attributes
    ----------
    n_types : int
        Types with test and training cells, which are compared.
    missing : list of str
        Those of them that a generated set has no cells of.
    thin : dict of str to (int, int)
        Those that it has less than half of the wanted cells of: cells that it has, cells wanted.
    no_floor : list of str
        Types with test cells but without training cells.
    """

    n_types: int
    missing: list[str] = field(default_factory=list)
    thin: dict[str, tuple[int, int]] = field(default_factory=dict)
    no_floor: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Selection:
    """The cells to compare; made by `select`.

    Attributes
    ----------
    wanted : dict of int to int
        Code of a type → cells of it in each set.
    rows : dict of str to int array
        `test`, `generated-K`, `floor-K` → rows of the source of the set. `matched`: test cells of the composition of
        the sets, for what looks at all cells at once; where some type has fewer training than test cells.
    source_of : dict of str to int
        Set → number of its source: 0 is that of the real cells.
    n_sets : dict of str to int
        `generated`, `floor`, `control` → sets.
    apart : dict of str to int array
        `test`, `generated-K` → rows of the cells of types without a floor; empty when there are none.
    lacking : Lacking
    notes : list of str
        What the reader must know of types that are missing or small.
    """

    wanted: dict[int, int]
    rows: dict[str, Ints]
    source_of: dict[str, int]
    n_sets: dict[str, int]
    apart: dict[str, Ints]
    lacking: Lacking
    notes: list[str]

    def digest(self) -> str:
        """Of all rows: two evaluations of the same cells that compare other ones differ in it."""
        rows = (*self.rows.values(), *self.apart.values())
        return hashlib.sha256(b"".join(chosen.tobytes() for chosen in rows)).hexdigest()


def select(
    real: Cells, sources: Sequence[Cells], test: Ints, train: Ints, *, sets: int, floor_sets: int, control: bool,
    seed: int,
) -> Selection:  # fmt: skip
    """Choose the cells to compare.

    Parameters
    ----------
    real : Cells
    sources : list of Cells
        Generated ones, with the types of the real ones; or without types (see `Cells.without_types`): then sets are
        drawn from all of their cells.
    test, train : int arrays
        Rows of the real cells.
    sets, floor_sets, control, seed
        As in `evaluate`.

    Raises
    ------
    BadInput
        No type has test and training cells alike, or no generated cell is of such a type.
    """
    in_test, in_train = (cells_of_types(real, rows) for rows in (test, train))
    fewer = np.minimum(in_test, in_train)
    wanted = {int(code): int(fewer[code]) for code in np.flatnonzero(fewer)}
    if not wanted:
        raise BadInput(f"{real.name}: no type of {real.label!r} has test and training cells alike: there is no floor")
    pooled = sources[0].pooled
    from_sources = {0: sum(wanted.values())} if pooled else wanted
    made = [cells_of_types(source) for source in sources]
    if not any(cells[code] for cells in made for code in from_sources):
        raise BadInput(f"{sources[0].name}: no cells of the {len(wanted)} types that have test and training cells")
    n_sets = len(sources) if len(sources) > 1 else sets_in(sources[0], from_sources, sets)
    share = n_sets if len(sources) == 1 else 1  # of a source's cells, for each of its sets
    rows, source_of = {"test": test[np.isin(real.codes[test], list(wanted))]}, {"test": 0}
    if any(wanted[code] < in_test[code] for code in wanted):
        rng = generator(seed, Evaluation.MATCH, 2, 0)
        rows[MATCHED], source_of[MATCHED] = test[matched_rows(real.codes[test], wanted, 1, rng)[0]], 0
    for draw, (number, chosen) in enumerate(generated_rows(sources, from_sources, n_sets, seed)):
        rows[f"generated-{draw}"], source_of[f"generated-{draw}"] = chosen, 1 + number
    for draw, chosen in enumerate(floor_rows(real, train, wanted, floor_sets, seed)):
        rows[f"floor-{draw}"], source_of[f"floor-{draw}"] = chosen, 0

    no_floor = {int(code): int(in_test[code]) for code in np.flatnonzero((in_test > 0) & (in_train == 0))}
    apart = {code: n for code, n in no_floor.items() if not pooled and min(cells[code] for cells in made) >= share}
    rows_apart = {"test": test[np.isin(real.codes[test], list(apart))]} if apart else {}
    for draw, (_, chosen) in enumerate(generated_rows(sources, apart, n_sets, seed) if apart else ()):
        rows_apart[f"generated-{draw}"] = chosen

    have = {code: min(int(cells[code]) // share for cells in made) for code in from_sources}
    names = {code: str(sources[0].types[code]) for code in from_sources}
    lacking = Lacking(
        len(wanted),
        [names[code] for code in from_sources if not have[code]],
        {names[code]: (have[code], n) for code, n in from_sources.items() if is_thin(have[code], n)},
        real.types[list(no_floor)].tolist(),
    )
    notes = _notes(real, in_test, in_train, pooled)
    if len(sources) == 1 and n_sets < sets:
        notes.append(f"The generated cells suffice for {n_sets} of {sets} sets of as many cells per type as wanted.")
    short = [f"{names[code]} ({have[code]:,} for {n:,})" for code, n in from_sources.items() if have[code] < n]
    if short:
        notes.append(f"Fewer generated cells in a set than wanted: {', '.join(short)}.")
    drawn = {"generated": n_sets, "floor": floor_sets, "control": n_sets if control else 0}
    return Selection(wanted, rows, source_of, drawn, rows_apart, lacking, notes)


def is_thin(have: int, wanted: int) -> bool:
    """Whether a set has far fewer cells of a type than wanted, and more than none."""
    return wanted >= FEW_CELLS and 0 < have < THIN * wanted


def _notes(real: Cells, in_test: Ints, in_train: Ints, pooled: bool) -> list[str]:
    """What must be known of the real cells, in sentences."""
    size = np.minimum(in_test, in_train)
    there = [
        f"{real.types[code]} ({in_train[code]:,} for {in_test[code]:,})"
        for code in np.flatnonzero((in_train > 0) & (in_train < in_test))
    ]
    listed = [
        ("No test cells, so not evaluated", real.types[(cells_of_types(real) > 0) & (in_test == 0)]),
        (
            "No training cells, so without a floor: no verdict, and not part of any mean",
            real.types[(in_test > 0) & (in_train == 0)],
        ),
        ("Fewer training than test cells, so all sets have as many as there are training cells", there),
    ]
    if not pooled:
        listed += [
            (f"Fewer than {FEW_CELLS} cells in a set, so mostly noise", real.types[(size > 0) & (size < FEW_CELLS)]),
            (
                f"Fewer than {CORRELATION_CELLS} cells in a set, so not part of the gene-gene correlation error",
                real.types[(size > 0) & (size < CORRELATION_CELLS)],
            ),
        ]
    return [f"{what}: {', '.join(kinds)}." for what, kinds in listed if len(kinds)]


def cells_of_types(cells: Cells, rows: Ints | slice = slice(None)) -> Ints:
    """How many of the cells in `rows` are of each type, int64 (K,)."""
    return np.bincount(cells.codes[rows], minlength=len(cells.types))


def sets_in(source: Cells, wanted: Mapping[int, int], sets: int) -> int:
    """How many disjoint sets the cells of one store suffice for, at least 1; types that it lacks do not count."""
    have = cells_of_types(source)
    return max(1, min(sets, *(int(have[code]) // n for code, n in wanted.items() if have[code])))


def generated_rows(
    sources: Sequence[Cells], wanted: Mapping[int, int], n_sets: int, seed: int
) -> Iterator[tuple[int, Ints]]:
    """Number of the source and rows of each generated set."""
    for number, source in enumerate(sources):
        rng = generator(seed, Evaluation.MATCH, 0, number)
        for rows in matched_rows(source.codes, wanted, n_sets if len(sources) == 1 else 1, rng):
            yield number, rows


def floor_rows(real: Cells, train: Ints, wanted: Mapping[int, int], n_sets: int, seed: int) -> Iterator[Ints]:
    """Rows of each set of training cells."""
    for draw in range(n_sets):
        yield train[matched_rows(real.codes[train], wanted, 1, generator(seed, Evaluation.MATCH, 1, draw))[0]]


def matched_rows(
    labels: Array, wanted: Mapping[Hashable, int] | Mapping[int, int], sets: int, rng: np.random.Generator
) -> list[Ints]:
    """Disjoint random sets of cells with wanted numbers of each type.

    Parameters
    ----------
    labels : array (n,)
        Names or codes of types.
    wanted : dict
        Type → cells of it in each set. A type with fewer than `sets` times as many gives each set an equal share of
        what it has; a type with none is left out.
    sets : int
    rng : numpy.random.Generator

    Returns
    -------
    list of int arrays
        Row numbers of each set, ascending.
    """
    chosen: list[list[Ints]] = [[] for _ in range(sets)]
    for kind, n in sorted(wanted.items()):
        of_kind = rng.permutation(np.flatnonzero(labels == kind))
        size = min(n, len(of_kind) // sets)
        for k in range(sets):
            chosen[k].append(of_kind[k * size : (k + 1) * size])
    return [np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64) for parts in chosen]
