"""Which matrix of a SOMA experiment holds the counts: the search of `sources.which` over X layers and `raw`."""

from typing import Any, NamedTuple

import numpy as np

from data_loaders.errors import BadInput
from data_loaders.sources.which import IN_PLACE, Look, Place, Ways, look_at, may_be_rounded, search
from data_loaders.types import Array, Ints

FIRST_ROWS = 256  # of a matrix that are looked at to see whether it holds counts
RAW = "raw"  # the measurement that tiledbsoma makes of the raw of an AnnData
WAYS = Ways(
    "in an X layer (`layer=NAME`) or another measurement (`measurement=NAME`)", "choose by `layer=NAME`", IN_PLACE
)


class SomaPlace(NamedTuple):
    """A matrix of an experiment."""

    measurement: str
    layer: str

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"ms/{self.measurement}/X/{self.layer}"


def places_of(measurements: Any) -> list[SomaPlace]:
    """All matrices of the measurements of an experiment."""
    return [SomaPlace(name, layer) for name in measurements for layer in _layers(measurements[name])]


def place_of_counts(
    uri: str, measurements: Any, found: str, ids: Ints, *, or_raw: bool, round_counts: bool
) -> SomaPlace:
    """The matrix that holds the counts: the first usual one with whole numbers, or the only other one.

    Parameters
    ----------
    uri : str
        For messages.
    measurements : tiledbsoma.Collection
    found : str
        The measurement whose X layers are looked at: `data`, `counts`, then others.
    ids : int64 array
        Join ids of the cells that are looked at.
    or_raw : bool
        Whether the layers of the measurement `raw` come after these two.
    round_counts : bool
        See `sources.which.search`.

    Raises
    ------
    BadInput
        When there are no counts, or several matrices hold whole numbers and none of them is a usual one.
    """
    layers = _layers(measurements[found])
    if not layers:
        raise BadInput(f"{uri}: measurement {found!r} has no X layer; expected one with raw counts")
    usual = [SomaPlace(found, name) for name in ("data", "counts") if name in layers]
    others = [SomaPlace(found, name) for name in sorted(layers) if name not in ("data", "counts")]
    if or_raw and RAW in measurements and found != RAW:
        usual += [SomaPlace(RAW, name) for name in sorted(_layers(measurements[RAW]))]
    if len(usual) + len(others) == 1:  # reading it says where its fault is
        return (*usual, *others)[0]
    by_key = {place.label: place for place in (*usual, *others)}

    def look(place: Place) -> Look:
        values = _first_values(measurements, by_key[place.key], ids)
        return Look(f"{place.label} is dense", False) if values is None else look_at(place.label, values)

    def can_be_rounded(place: Place) -> bool:
        values = _first_values(measurements, by_key[place.key], ids)
        return values is not None and may_be_rounded(values)

    first, then = ([Place(place.label, place.label) for place in places] for places in (usual, others))
    return by_key[search(uri, first, then, look, WAYS, can_be_rounded, round_counts).key]


def is_dense(matrix: Any) -> bool:
    """Whether a matrix is an array that has a value for every cell and gene."""
    return str(matrix.soma_type) == "SOMADenseNDArray"


def _first_values(measurements: Any, place: SomaPlace, ids: Ints) -> Array | None:
    """Values of some cells, None where the matrix is dense."""
    matrix = measurements[place.measurement].X[place.layer]
    if is_dense(matrix):
        return None
    values = [table["soma_data"].to_numpy() for table in matrix.read(coords=(ids, slice(None))).tables()]
    return np.concatenate(values or [np.zeros(0)])


def _layers(measurement: Any) -> list[str]:
    return list(measurement.X) if "X" in measurement else []
