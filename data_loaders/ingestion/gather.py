"""The counts of one modality read from all its sources, set aside in buckets, and its features chosen."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from data_loaders.errors import BadInput
from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.genes import column_map
from data_loaders.parallel import ordered_map, reduce_items
from data_loaders.progress import progress
from data_loaders.reading.rows import SparseRows, offsets
from data_loaders.sources.counts import as_counts
from data_loaders.sources.source import Block, Source
from data_loaders.statistics import variable_genes
from data_loaders.statistics.csr import add_row_hashes, add_row_sums, choose_columns
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments, Pass, S
from data_loaders.types import Array, Bools, Floats, Ints


class Chosen(NamedTuple):
    """Positions of the chosen features, how many were seen in too few cells, and what to note of the choice."""

    features: Ints
    too_rare: int
    notes: list[str]


class RowIdentity(NamedTuple):
    """What tells cells with different counts apart, over all features.

    Attributes
    ----------
    hashes : uint64 (n_cells,)
        Of the counts of each cell.
    n_genes : int32 (n_cells,)
        Features with counts.
    totals : float64 (n_cells,)
    """

    hashes: Array
    n_genes: Ints
    totals: Floats


@dataclass
class Gathered:
    """Counts of one modality, on disk.

    Attributes
    ----------
    var : pandas.DataFrame
        All features.
    chosen : int array
        Positions of those that the atlas keeps, in its order.
    too_rare : int
        How many were seen in fewer cells than asked for.
    totals : float64 (n_cells,)
        Counts of each cell in the chosen features.
    identity : RowIdentity
    notes : list of str
        What the card should say of the choice.
    """

    var: pd.DataFrame
    spill: Spill
    chosen: Ints
    too_rare: int
    totals: Floats
    identity: RowIdentity
    notes: list[str]

    def read(self, number: int, kept_cells: Bools) -> tuple[Ints, csr_matrix]:
        """Rows of a bucket that are kept, int64 (n,), and their counts in the chosen features, CSR."""
        columns = np.full(len(self.var), -1, np.int64)
        columns[self.chosen] = np.arange(len(self.chosen))
        rows, block = self.spill.assemble(number)
        kept = kept_cells[rows]
        return rows[kept], choose_columns(block[kept], columns, len(self.chosen))

    def dropped(self) -> tuple[int, int]:
        """What the card says of features left out: too rare, and not chosen."""
        return self.too_rare, len(self.var) - self.too_rare - len(self.chosen)


def gather(
    sources: Sequence[Source],
    rows_of: Sequence[Ints],
    var: pd.DataFrame,
    spill: Spill,
    *,
    min_cells: int,
    n_hvg: int | None = None,
    listed: Ints | None = None,
    what: str = "gene",
) -> Gathered:
    """Read the counts of a modality once, and choose its features.

    Parameters
    ----------
    sources : list of sources.Source
    rows_of : list of int64 arrays
        For each source, the cell of the atlas's table that each of its rows is; -1 for rows to leave out.
    var : pandas.DataFrame
        All features, joined.
    spill : Spill
        Empty.
    min_cells, n_hvg, listed
        As `ingest` takes them: the bound, the number of variable genes, or the positions of listed genes.
    what : str
        What a feature is called in messages.

    Returns
    -------
    Gathered

    Raises
    ------
    BadInput
        A value is not a count, or no feature is left.
    """
    _set_aside(sources, rows_of, var.index, spill)
    moments, totals, identity = _sum_up(spill, len(spill.position))
    chosen = _choose(moments, totals, spill, min_cells, n_hvg, listed, what)
    left = _totals_of(spill, totals, chosen.features, len(var))
    return Gathered(var, spill, chosen.features, chosen.too_rare, left, identity, chosen.notes)


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


def _sum_up(spill: Spill, n_rows: int) -> tuple[GeneMoments, Floats, RowIdentity]:
    """Feature moments over all cells, the total of each cell, and what tells it from others."""
    totals, one = np.zeros(n_rows), np.ones(spill.n_columns)
    identity = RowIdentity(np.zeros(n_rows, np.uint64), np.zeros(n_rows, np.int32), totals)

    def moments(number: int) -> GeneMoments:
        sums = GeneMoments(spill.n_columns)
        for rows, lengths, columns, counts in spill.frames(number):
            sums.add(SparseRows(counts, columns, offsets(lengths), spill.n_columns))
            add_row_sums(rows, lengths, columns, counts, one, totals)
            add_row_hashes(rows, lengths, columns, counts, identity.hashes, identity.n_genes)
        return sums

    merged = reduce_items(moments, range(spill.n_buckets), GeneMoments.merge)
    merged.n_cells = int((totals > 0).sum())
    return merged, totals, identity


def _choose(
    moments: GeneMoments,
    totals: Floats,
    spill: Spill,
    min_cells: int,
    n_hvg: int | None,
    listed: Ints | None,
    what: str,
) -> Chosen:
    """Choose features: those listed, the most variable ones, or all that are not too rare."""
    if listed is not None:
        return Chosen(listed, 0, [])
    enough = np.flatnonzero(moments.nonzero >= min_cells)
    too_rare = len(moments.nonzero) - len(enough)
    if len(enough) == 0:
        raise BadInput(
            f"`min_cells={min_cells}`: no {what} is left of {len(moments.nonzero):,}; the most common one has counts "
            f"in {int(moments.nonzero.max()):,} of {len(totals):,} cells"
        )
    if n_hvg is None:
        return Chosen(enough, too_rare, [])
    if n_hvg > len(enough):
        raise BadInput(f"`genes='hvg:{n_hvg}'`: only {len(enough):,} genes have counts in {min_cells} cells or more")
    genes, note = variable_genes.choose(moments, n_hvg, _pass_over(spill, totals), candidates=enough)
    return Chosen(genes, too_rare, [note] if note else [])


def _pass_over(spill: Spill, totals: Floats) -> Pass:
    """The pass over all cells with counts, bucket by bucket, that choosing variable genes takes."""

    def pass_over(new: Callable[[], S]) -> S:
        def of_bucket(number: int) -> S:
            sums = new()
            if isinstance(sums, LogSums):  # needs whole cells, and frames may hold a cell in pieces
                rows, block = spill.assemble(number)
                sums.add(block[totals[rows] > 0])
            else:
                for _, lengths, columns, counts in spill.frames(number):
                    sums.add(SparseRows(counts, columns, offsets(lengths), spill.n_columns))
            return sums

        total: S = reduce_items(of_bucket, range(spill.n_buckets), lambda a, b: a.merge(b))
        return total

    return pass_over


def _totals_of(spill: Spill, totals: Floats, chosen: Ints, n_features: int) -> Floats:
    """Total of each cell over the chosen features."""
    if len(chosen) == n_features:
        return totals
    weight = np.zeros(n_features)
    weight[chosen] = 1.0
    left = np.zeros_like(totals)

    def add(number: int) -> int:
        for rows, lengths, columns, counts in spill.frames(number):
            add_row_sums(rows, lengths, columns, counts, weight, left)
        return 0

    reduce_items(add, range(spill.n_buckets), lambda a, b: 0)
    return left
