"""The counts of one modality read from all its sources, set aside in buckets, and its features chosen."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.ingestion.buckets import Spill
from data_loaders.ingestion.genes import column_map
from data_loaders.parallel import ordered_map, reduce_items
from data_loaders.progress import progress
from data_loaders.reading.rows import SparseRows, offsets
from data_loaders.sources.counts import as_counts
from data_loaders.statistics import variable_genes
from data_loaders.statistics.csr import add_row_sums, choose_columns
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments


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
    notes : list of str
        What the card should say of the choice.
    """

    var: pd.DataFrame
    spill: Spill
    chosen: np.ndarray
    too_rare: int
    totals: np.ndarray
    notes: list[str]

    def read(self, number, kept_cells):
        """Rows of a bucket that are kept, int64 (n,), and their counts in the chosen features, CSR."""
        columns = np.full(len(self.var), -1, np.int64)
        columns[self.chosen] = np.arange(len(self.chosen))
        rows, block = self.spill.assemble(number)
        kept = kept_cells[rows]
        return rows[kept], choose_columns(block[kept], columns, len(self.chosen))

    def dropped(self):
        """What the card says of features left out: too rare, and not chosen."""
        return self.too_rare, len(self.var) - self.too_rare - len(self.chosen)


def gather(sources, rows_of, var, spill, *, min_cells, n_hvg=None, listed=None, what="gene"):
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
        Something that is no count, or no feature left.
    """
    _set_aside(sources, rows_of, var.index, spill)
    moments, totals = _sum_up(spill, len(spill.position))
    chosen, too_rare, note = _choose(moments, totals, spill, min_cells, n_hvg, listed, what)
    notes = [] if note is None else [note]
    return Gathered(var, spill, chosen, too_rare, _totals_of(spill, totals, chosen, len(var)), notes)


def _set_aside(sources, rows_of, features, spill):
    """Read all counts once: check them, rename their columns, add them to the buckets."""
    with progress("read", sum(source.matrix.n_values for source in sources), "values") as advance:
        for source, row_of in zip(sources, rows_of, strict=True):
            columns = column_map(source, features)

            def checked(item, source=source, columns=columns, row_of=row_of):
                rows, block = item
                n_values = block.nnz
                block = as_counts(block, rows, source)
                block = choose_columns(block, columns, len(features))
                places = row_of[rows]
                if (places < 0).any():
                    block, places = block[places >= 0], places[places >= 0]
                return spill.encode(places, block), n_values

            for pieces, n_values in ordered_map(checked, source.matrix.blocks()):
                spill.write(pieces)
                advance(n_values)


def _sum_up(spill, n_rows):
    """Feature moments over all cells, and the total of each cell."""
    totals, one = np.zeros(n_rows), np.ones(spill.n_columns)

    def moments(number):
        sums = GeneMoments(spill.n_columns)
        for rows, lengths, columns, counts in spill.frames(number):
            sums.add(SparseRows(counts, columns, offsets(lengths), spill.n_columns))
            add_row_sums(rows, lengths, columns, counts, one, totals)
        return sums

    merged = reduce_items(moments, range(spill.n_buckets), GeneMoments.merge)
    merged.n_cells = int((totals > 0).sum())
    return merged, totals


def _choose(moments, totals, spill, min_cells, n_hvg, listed, what):
    """Positions of the chosen features, how many were seen in too few cells, and a note on the choice or None."""
    if listed is not None:
        return listed, 0, None
    enough = np.flatnonzero(moments.nonzero >= min_cells)
    too_rare = len(moments.nonzero) - len(enough)
    if len(enough) == 0:
        raise BadInput(
            f"--min-cells {min_cells}: no {what} is left of {len(moments.nonzero):,}; the most common one has counts "
            f"in {int(moments.nonzero.max()):,} of {len(totals):,} cells"
        )
    if n_hvg is None:
        return enough, too_rare, None
    if n_hvg > len(enough):
        raise BadInput(f"--genes hvg:{n_hvg}: only {len(enough):,} genes have counts in {min_cells} cells or more")
    chosen, note = variable_genes.choose(moments, n_hvg, _pass_over(spill, totals), candidates=enough)
    return chosen, too_rare, note


def _pass_over(spill, totals):
    """The pass over all cells with counts, bucket by bucket, that choosing variable genes takes."""

    def pass_over(new):
        def of_bucket(number):
            sums = new()
            if isinstance(sums, LogSums):  # needs whole cells, and frames may hold a cell in pieces
                rows, block = spill.assemble(number)
                sums.add(block[totals[rows] > 0])
            else:
                for _, lengths, columns, counts in spill.frames(number):
                    sums.add(SparseRows(counts, columns, offsets(lengths), spill.n_columns))
            return sums

        return reduce_items(of_bucket, range(spill.n_buckets), lambda a, b: a.merge(b))

    return pass_over


def _totals_of(spill, totals, chosen, n_features):
    """Total of each cell over the chosen features."""
    if len(chosen) == n_features:
        return totals
    weight = np.zeros(n_features)
    weight[chosen] = 1.0
    left = np.zeros_like(totals)

    def add(number):
        for rows, lengths, columns, counts in spill.frames(number):
            add_row_sums(rows, lengths, columns, counts, weight, left)
        return 0

    reduce_items(add, range(spill.n_buckets), lambda a, b: 0)
    return left
