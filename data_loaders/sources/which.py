"""Which matrix holds the counts: one search for every source, for `ingest` and for what is opened in place.

The usual places in order (X, layers["counts"], raw), then the only other one whose first values are whole numbers. Only
the first values of a matrix are looked at; whoever reads on checks the rest.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.sources.counts import ROUND, fault, has_fractions, looks_logged, normalised
from data_loaders.sources.matrices import open_matrix
from data_loaders.sources.source import Group, Options
from data_loaders.types import Array
from data_loaders.zarr_groups import is_unknown, names

FIRST_VALUES = 1 << 20  # of a matrix read in place that are looked at
EXPECTED = "expected raw counts (whole numbers, 0 or more)"


class Place(NamedTuple):
    """Where a matrix is: what users call it, and its key in the store."""

    label: str
    key: str


class Look(NamedTuple):
    """What the first values of a matrix are.

    Attributes
    ----------
    problem : str or None
        What keeps them from being counts, in words that name the matrix; None if nothing does.
    is_numbers : bool
        Whether they are numbers at all.
    """

    problem: str | None
    is_numbers: bool


class Ways(NamedTuple):
    """What a search says to users: where counts may be, how one place is chosen, and what makes fractions counts."""

    places: str
    choice: str
    rounding: str = ROUND


# options that name another matrix of the same source
CHOICES = {"layer": "`layer=NAME`", "raw": "`raw=True`", "measurement": "`measurement=NAME`"}
USUAL = (Place("X", "X"), Place("layers['counts']", "layers/counts"), Place("raw.X", "raw/X"))
IN_ANNDATA = Ways("in X, a layer (`layer=NAME`) or raw (`raw=True`)", "choose by `layer=NAME`")
IN_PLACE = "`ingest(round_counts=True)` makes a store of counts that SoupX or DecontX corrected"  # no stream rounds


def place_of_counts(
    path: str, root: Group, options: Options, read: Callable[[str, Group], Array] | None = None
) -> Place:
    """The matrix of an AnnData that holds the counts: the one named, or the one that can only be meant.

    Parameters
    ----------
    path : str
        For messages.
    root : group of an open HDF5 file or Zarr store
    options : Options
        `layer`, `raw` and `round_counts`.
    read : callable, optional
        (name, element) → its first values, for stores read in place; those of the first block by default.

    Raises
    ------
    BadInput
        When the one named does not exist, none holds whole numbers, or several do that only the user can tell apart.
    """
    layers, layer = names(root["layers"]) if "layers" in root else [], options.layer
    if layer is not None and options.raw:
        raise BadInput(f"{path}: `layer={layer!r}` and `raw=True` together; expected one of them")
    if layer is not None:
        if layer not in layers:
            ways = [nearest(layer, layers)] if layers else []
            ways += ["`raw=True` takes the counts of raw"] if has(root, "raw/X") else []
            raise BadInput(f"{path}: no layer {layer!r}; {'; '.join(ways) or 'there are no layers in it'}")
        return Place(f"layers[{layer!r}]", f"layers/{layer}")
    if options.raw:
        if not has(root, "raw/X"):
            raise BadInput(f"{path}: `raw=True` was asked for, but it has no raw")
        return Place("raw.X", "raw/X")
    usual = [place for place in USUAL if has(root, place.key)]
    others = [Place(f"layers[{name!r}]", f"layers/{name}") for name in sorted(layers) if name != "counts"]
    if not usual + others:
        raise BadInput(f"{path}: no X, layers or raw in it; {EXPECTED}")
    return search(
        path,
        usual,
        others,
        lambda place: _look_in(path, root, place, read or first_block),
        IN_ANNDATA if read is None else IN_ANNDATA._replace(rounding=IN_PLACE),
        lambda place: _can_be_rounded(path, root, place),
        options.round_counts,
    )


def other_places(root: Group, place: Place) -> list[str]:
    """The options that name another matrix of an AnnData than this one."""
    layers = [name for name in names(root["layers"]) if f"layers/{name}" != place.key] if "layers" in root else []
    return [*(["layer"] if layers else []), *(["raw"] if place.key != "raw/X" and has(root, "raw/X") else [])]


def other_counts(path: str, root: Group) -> list[str]:
    """What to note where X and layers["counts"] both begin with whole numbers, but others."""
    if "layers" not in root or "counts" not in names(root["layers"]):
        return []
    try:
        first = [
            next((block for _, block in open_matrix(path, root[key]).blocks()), None) for key in ("X", "layers/counts")
        ]
    except BadInput:
        return []
    x, counts = first
    if x is None or counts is None or x.shape != counts.shape or fault(counts.data) is not None:
        return []
    if (x != counts).nnz == 0:
        return []
    return [f"{path}: X and layers['counts'] hold other whole numbers; X was taken, `layer='counts'` takes the others"]


def in_words(options: Collection[str]) -> str:
    """Options that name another matrix, as they are written."""
    return " or ".join(written for option, written in CHOICES.items() if option in options)


def search(
    path: str,
    usual: Sequence[Place],
    others: Sequence[Place],
    look: Callable[[Place], Look],
    ways: Ways,
    can_be_rounded: Callable[[Place], bool],
    round_counts: bool = False,
) -> Place:
    """The first usual place with whole numbers, or else the only other one.

    Parameters
    ----------
    path : str
        For messages.
    usual, others : lists of Place
    look : callable
        What the first values of a place are.
    ways : Ways
    can_be_rounded : callable
        Whether a place without counts holds numbers near to counts.
    round_counts : bool
        Whether the only such place is taken where there are no counts.

    Raises
    ------
    BadInput
        No place has counts, or several have that only the user can tell apart.
    """
    problems = []
    for place in usual:
        problem, is_numbers = look(place)
        # reading the only one there is says where its fault is
        if problem is None or (is_numbers and len(usual) + len(others) == 1):
            return place
        problems.append(problem)
    of_others = {place: look(place).problem for place in others}
    whole = [place for place, problem in of_others.items() if problem is None]
    if len(whole) == 1:
        return whole[0]
    if round_counts and not whole:
        rounded = [place for place in (*usual, *others) if can_be_rounded(place)]
        if len(rounded) == 1:
            return rounded[0]
        if rounded:
            places = ", ".join(place.label for place in rounded)
            raise BadInput(f"{path}: values to round are in {places}; expected one of them, {ways.choice}")
    if whole:  # spliced and ambiguous counts, or binary values: only the user knows which are meant
        problems.append(f"whole numbers are in {', '.join(place.label for place in whole)}")
        raise BadInput(f"{path}: {'; '.join(problems)}; expected one of them, {ways.choice}")
    problems += [problem for problem in of_others.values() if problem is not None]
    rounds = f"; {ways.rounding}" if any(can_be_rounded(place) for place in (*usual, *others)) else ""
    raise BadInput(f"{path}: no counts: {'; '.join(problems)}; {EXPECTED} {ways.places}{rounds}")


def look_at(label: str, values: Array) -> Look:
    """What values are, the matrix called `label` in words."""
    problem = fault(values)
    return Look(problem and f"{label} has {problem}", values.dtype.kind in "biuf")


def has(root: Group, key: str) -> bool:
    """Whether an element is there; anndata writes an X of None as an element of encoding "null"."""
    return is_unknown(root, key) or (key in root and bool(root[key].attrs.get("encoding-type") != "null"))


def first_block(name: str, element: Group) -> Array:
    """The values of the first block of an AnnData element, an array; `BadInput` when it is no matrix, or damaged."""
    return next((block.data for _, block in open_matrix(name, element).blocks()), np.zeros(0))


def values_of(name: str, element: Group) -> tuple[Group, int]:
    """The array that has the values of an AnnData element, and how many of its rows are looked at.

    Raises
    ------
    BadInput
        When the element is no matrix.
    """
    if hasattr(element, "shape"):
        if len(element.shape) != 2:
            raise BadInput(f"{name}: an array of {len(element.shape)} dimensions; expected cells x genes")
        return element, max(FIRST_VALUES // max(int(element.shape[1]), 1), 1)
    kind = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind.removesuffix("_matrix") not in ("csr", "csc"):
        raise BadInput(f"{name}: of encoding {kind!r}; expected an array, csr_matrix or csc_matrix")
    with readable(f"{name}, its first values"):
        return element["data"], FIRST_VALUES


def _look_in(path: str, root: Group, place: Place, read: Callable[[str, Group], Array]) -> Look:
    try:
        with readable(f"{path}: {place.label}"):
            element = root[place.key]
        return look_at(place.label, read(f"{path}: {place.label}", element))
    except BadInput as error:
        if place.label == "X":
            raise
        return Look(str(error), False)


def _can_be_rounded(path: str, root: Group, place: Place) -> bool:
    """Whether the first block of a matrix holds numbers that are neither counts nor normalised, but near to counts."""
    try:
        matrix = open_matrix(f"{path}: {place.label}", root[place.key])
        block = next((block for _, block in matrix.blocks()), None)
    except BadInput:
        return False
    if block is None or not may_be_rounded(block.data):
        return False
    return normalised(block) is None


def may_be_rounded(values: Array) -> bool:
    """Whether values have fractions, and are neither logarithms nor anything else that no rounding makes counts."""
    return fault(values, round_counts=True) is None and has_fractions(values) and not looks_logged(values)
