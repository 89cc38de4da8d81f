"""The counts of one modality read from all its sources and set aside in buckets."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.genes import column_map
from data_loaders.ingestion.taking import take_counts
from data_loaders.parallel import ordered_map
from data_loaders.progress import progress
from data_loaders.sources.counts import as_counts
from data_loaders.sources.source import Block, Source
from data_loaders.types import Array, Floats, Ints


class RowIdentity(NamedTuple):
    """What tells cells with different counts apart, over all features.

    Attributes
    ----------
    hashes : uint64 (n_cells,)
        Of the counts of each cell.
    n_genes : int32 (n_cells,)
        Features with counts.
    totals : float64 (n_cells,)
        Counts of each cell.
    """

    hashes: Array
    n_genes: Ints
    totals: Floats


class Gathered(NamedTuple):
    """Counts of one modality, on disk.

    Attributes
    ----------
    var : pandas.DataFrame
        All features.
    spill : Spill
        The counts.
    identity : RowIdentity
    """

    var: pd.DataFrame
    spill: Spill
    identity: RowIdentity


def gather(sources: Sequence[Source], rows_of: Sequence[Ints], var: pd.DataFrame, spill: Spill) -> Gathered:
    """Read the counts of a modality once.

    Parameters
    ----------
    sources : list of sources.Source
    rows_of : list of int64 arrays
        For each source, the cell of the atlas's table that each of its rows is; -1 for rows to leave out.
    var : pandas.DataFrame
        All features, joined.
    spill : Spill
        Empty.

    Returns
    -------
    Gathered

    Raises
    ------
    BadInput
        A value is not a count.
    """
    return Gathered(var, spill, _set_aside(sources, rows_of, var.index, spill))


def _set_aside(sources: Sequence[Source], rows_of: Sequence[Ints], features: pd.Index, spill: Spill) -> RowIdentity:
    """Read all counts once: check them, rename their columns, add them to the buckets, and sum them up."""
    n_rows = len(spill.position)
    identity = RowIdentity(np.zeros(n_rows, np.uint64), np.zeros(n_rows, np.int32), np.zeros(n_rows))
    with progress("read", sum(source.matrix.n_values for source in sources), "values") as advance:
        for source, row_of in zip(sources, rows_of, strict=True):
            encode = functools.partial(
                _encoded, source=source, row_of=row_of, columns=column_map(source, features), spill=spill
            )
            for pieces, part, rows, n_values in ordered_map(encode, source.matrix.blocks()):
                spill.write(pieces)
                for sums, added in zip(identity, part, strict=True):
                    np.add.at(sums, rows, added)  # a cell may come in pieces
                advance(n_values)
    return identity


def _encoded(
    block: Block, *, source: Source, row_of: Ints, columns: Ints, spill: Spill
) -> tuple[list[tuple[int, bytes]], RowIdentity, Ints, int]:
    """The pieces of a block for the buckets, what it adds to the identity of which rows, and how many values it had."""
    rows, counts = block
    n_values = counts.nnz
    own = np.ones(counts.shape[1], bool)
    if source.left_out:  # what is of another type need not be counts
        own[:] = False
        own[source.features] = True
    places = row_of[rows]
    order, parts = spill.in_order(places)
    taken = take_counts(counts, order, columns, own)
    if taken is None:
        if source.left_out:
            counts.data = np.where(own[counts.indices], counts.data, 0)
        taken = take_counts(as_counts(counts, rows, source), order, columns, own)
    assert taken is not None  # `as_counts` raises where there are none
    places = places[order]
    pieces = spill.encode(places, taken, parts)
    inside = slice(0, int((places >= 0).sum()))
    lengths = np.diff(taken.starts)[inside].astype(np.int32)
    return pieces, RowIdentity(taken.hashes[inside], lengths, taken.totals[inside]), places[inside], n_values
