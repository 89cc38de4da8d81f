"""Which cells are compared: sets of generated and of training cells with as many of each type as there are test cells.

All of it follows from the labels, the splits and the seed; no count is read.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from cfgen_dist.evaluation.metrics.structure import CORRELATION_CELLS
from cfgen_dist.evaluation.sources import Cells
from data_loaders.errors import BadInput
from data_loaders.seeds import Evaluation, generator
from data_loaders.types import Array, Ints

FEW_CELLS = 10  # below this a type's own numbers are mostly noise: the report says so


def wanted_cells(real: Cells, sources: Sequence[Cells], test: Ints, train: Ints) -> tuple[dict[int, int], list[str]]:
    """Cells wanted of each type, and what the reader must know of types that are missing or small.

    Parameters
    ----------
    real : Cells
    sources : list of Cells
        Generated ones, with the types of the real ones.
    test, train : int arrays
        Rows of the real cells.

    Returns
    -------
    wanted : dict of int to int
        Code of a type → cells of it in each set: its test cells.
    notes : list of str

    Raises
    ------
    BadInput
        No type has generated, train and test cells alike.
    """
    in_test, in_train, in_all = (cells_of_types(real, rows) for rows in (test, train, slice(None)))
    made = np.min([cells_of_types(source) for source in sources], axis=0)
    compared = (in_test > 0) & (made > 0) & (in_train > 0)
    wanted = {int(code): int(in_test[code]) for code in np.flatnonzero(compared)}
    listed = (
        ("No test cells, so not evaluated", (in_all > 0) & (in_test == 0)),
        ("No generated cells, so left out of all comparisons per type", (in_test > 0) & (made == 0)),
        ("No training cells, so without a floor and left out", (in_test > 0) & (made > 0) & (in_train == 0)),
        (f"Fewer than {FEW_CELLS} test cells, so mostly noise", compared & (in_test < FEW_CELLS)),
        (
            f"Fewer than {CORRELATION_CELLS} test cells, so not part of the gene-gene correlation error",
            compared & (in_test < CORRELATION_CELLS),
        ),
    )  # fmt: skip
    if not wanted:
        raise BadInput(f"{sources[0].name}: no type of {real.label!r} has generated, train and test cells alike")
    return wanted, [f"{what}: {', '.join(real.types[chosen])}." for what, chosen in listed if chosen.any()]


def cells_of_types(cells: Cells, rows: Ints | slice = slice(None)) -> Ints:
    """How many of the cells in `rows` are of each type, int64 (K,)."""
    return np.bincount(cells.codes[rows], minlength=len(cells.types))


def sets_in(source: Cells, wanted: Mapping[int, int], sets: int) -> int:
    """How many disjoint sets the cells of one store suffice for, at least 1."""
    have = cells_of_types(source)
    return max(1, min(sets, *(int(have[code]) // n for code, n in wanted.items())))


def attainable(wanted: Mapping[int, int], sources: Sequence[Cells], n_sets: int) -> dict[int, int]:
    """As `wanted`, but no more of a type than every set can have: floor and sets stay of equal size."""
    share = n_sets if len(sources) == 1 else 1
    made = [cells_of_types(source) for source in sources]
    return {code: min(n, *(int(cells[code]) // share for cells in made)) for code, n in wanted.items()}


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
