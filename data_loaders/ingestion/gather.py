"""The counts of one modality read from all its sources and set aside in buckets."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.genes import column_map
from data_loaders.parallel import ordered_map, reduce_items
from data_loaders.progress import progress
from data_loaders.sources.counts import as_counts
from data_loaders.sources.source import Block, Source
from data_loaders.statistics.csr import add_row_hashes, add_row_sums, choose_columns
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
    _set_aside(sources, rows_of, var.index, spill)
    return Gathered(var, spill, _sum_up(spill, len(spill.position)))


def _set_aside(sources: Sequence[Source], rows_of: Sequence[Ints], features: pd.Index, spill: Spill) -> None:
    """Read all counts once: check them, rename their columns, add them to the buckets."""
    with progress("read", sum(source.matrix.n_values for source in sources), "values") as advance:
        for source, row_of in zip(sources, rows_of, strict=True):
            encode = functools.partial(
                _encoded, source=source, row_of=row_of, columns=column_map(source, features), spill=spill
            )
            for pieces, n_values in ordered_map(encode, source.matrix.blocks()):
                spill.write(pieces)
                advance(n_values)


def _encoded(
    block: Block, *, source: Source, row_of: Ints, columns: Ints, spill: Spill
) -> tuple[list[tuple[int, bytes]], int]:
    """The pieces of a block for the buckets, and how many values it had."""
    rows, counts = block
    n_values = counts.nnz
    if source.left_out:  # what is of another type need not be counts
        own = np.zeros(counts.shape[1], bool)
        own[source.features] = True
        counts.data = np.where(own[counts.indices], counts.data, 0)
    counts = choose_columns(as_counts(counts, rows, source), columns, spill.n_columns)
    places = row_of[rows]
    if (places < 0).any():
        counts, places = counts[places >= 0], places[places >= 0]
    return spill.encode(places, counts), n_values


def _sum_up(spill: Spill, n_rows: int) -> RowIdentity:
    """The total of each cell, and what tells it from others."""
    one = np.ones(spill.n_columns)
    identity = RowIdentity(np.zeros(n_rows, np.uint64), np.zeros(n_rows, np.int32), np.zeros(n_rows))

    def add(number: int) -> int:
        for rows, lengths, columns, counts in spill.frames(number):
            add_row_sums(rows, lengths, columns, counts, one, identity.totals)
            add_row_hashes(rows, lengths, columns, counts, identity.hashes, identity.n_genes)
        return 0

    reduce_items(add, range(spill.n_buckets), lambda a, b: 0)
    return identity
