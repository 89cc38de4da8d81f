"""Which features an atlas keeps: those of a list, or those that the training and validation cells choose.

Test cells have no say: a gene that only held-out donors show, or that varies among them alone, must not enter a model
that is tested on them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from data_loaders.errors import BadInput
from data_loaders.ingestion.buckets import Frame, Spill
from data_loaders.ingestion.gather import Gathered
from data_loaders.parallel import reduce_items
from data_loaders.reading.rows import SparseRows, offsets
from data_loaders.statistics import variable_genes
from data_loaders.statistics.csr import add_row_sums
from data_loaders.statistics.normalisation import LogSums
from data_loaders.statistics.sums import GeneMoments, Pass, S
from data_loaders.types import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Kept:
    """The features of one modality that the atlas keeps, and their counts.

    Attributes
    ----------
    part : Gathered
        The modality.
    features : int array
        Positions of the features, in the order of the atlas.
    too_rare : int
        How many were seen in fewer cells than asked for.
    totals : float64 (n_cells,)
        Counts of each cell in these features.
    notes : list of str
        What the card should say of the choice.
    """

    part: Gathered
    features: Ints
    too_rare: int
    totals: Floats
    notes: list[str]

    def read(self, number: int, kept_cells: Bools) -> tuple[Ints, csr_matrix]:
        """Rows of a bucket that are kept, int64 (n,), and their counts in the chosen features, CSR."""
        columns = np.full(len(self.part.var), -1, np.int64)
        columns[self.features] = np.arange(len(self.features))
        return self.part.spill.assemble(number, kept_cells, columns, len(self.features))

    def dropped(self) -> tuple[int, int]:
        """What the card says of features left out: too rare, and not chosen."""
        return self.too_rare, len(self.part.var) - self.too_rare - len(self.features)


class _Choice(NamedTuple):
    """Positions of the chosen features, how many were seen in too few cells, and what to note of the choice."""

    features: Ints
    too_rare: int
    notes: list[str]


def keep_listed(part: Gathered, listed: Ints) -> Kept:
    """Keep the features of a list, whatever the cells show of them."""
    return Kept(part, listed, 0, _totals_of(part, listed), [])


def choose_features(
    part: Gathered, cells: Bools, *, min_cells: int, n_hvg: int | None = None, what: str = "gene"
) -> Kept:
    """Choose the features of a modality by some of its cells.

    Parameters
    ----------
    part : Gathered
    cells : bool (n_cells,)
        Those that choose.
    min_cells : int
        Features with counts in fewer of these cells are left out.
    n_hvg : int, optional
        Of the others, keep as many as vary most; all by default.
    what : str
        What a feature is called in messages.

    Returns
    -------
    Kept

    Raises
    ------
    BadInput
        No feature is left, or fewer than asked for.
    """
    choice = _choose(part.spill, cells, min_cells, n_hvg, what)
    return Kept(part, choice.features, choice.too_rare, _totals_of(part, choice.features), choice.notes)


def _choose(spill: Spill, cells: Bools, min_cells: int, n_hvg: int | None, what: str) -> _Choice:
    """All features that are not too rare, or the most variable of these."""
    if min_cells == 0 and n_hvg is None:
        return _Choice(np.arange(spill.n_columns), 0, [])
    pass_over = _pass_over(spill, cells)
    moments = pass_over(lambda: GeneMoments(spill.n_columns))
    moments.n_cells = int(cells.sum())  # cells without counts have no words in the buckets
    enough = np.flatnonzero(moments.nonzero >= min_cells)
    too_rare = len(moments.nonzero) - len(enough)
    if len(enough) == 0:
        raise BadInput(
            f"`min_cells={min_cells}`: no {what} is left of {len(moments.nonzero):,}; the most common one has counts "
            f"in {int(moments.nonzero.max()):,} of {moments.n_cells:,} cells that train and validate"
        )
    if n_hvg is None:
        return _Choice(enough, too_rare, [])
    if n_hvg > len(enough):
        raise BadInput(
            f"`genes='hvg:{n_hvg}'`: only {len(enough):,} genes have counts in {min_cells} cells or more that train "
            "and validate"
        )
    genes, note = variable_genes.choose(moments, n_hvg, pass_over, candidates=enough)
    return _Choice(genes, too_rare, [note] if note else [])


def _pass_over(spill: Spill, cells: Bools) -> Pass:
    """The pass over some cells, bucket by bucket, that choosing features takes."""

    def pass_over(new: Callable[[], S]) -> S:
        def of_bucket(number: int) -> S:
            sums = new()
            if isinstance(sums, LogSums):  # needs whole cells, and frames may hold a cell in pieces
                sums.add(spill.assemble(number, cells)[1])
            else:
                for frame in spill.frames(number):
                    _, lengths, columns, counts = _only(frame, cells)
                    sums.add(SparseRows(counts, columns, offsets(lengths), spill.n_columns))
            return sums

        total: S = reduce_items(of_bucket, range(spill.n_buckets), lambda a, b: a.merge(b))
        return total

    return pass_over


def _only(frame: Frame, cells: Bools) -> Frame:
    """The rows of a frame that are of these cells."""
    own = cells[frame.rows]
    if own.all():
        return frame
    entries = np.repeat(own, frame.lengths)
    return Frame(frame.rows[own], frame.lengths[own], frame.columns[entries], frame.counts[entries])


def _totals_of(part: Gathered, features: Ints) -> Floats:
    """Total of each cell over some features."""
    spill = part.spill
    n_left_out = spill.n_columns - len(features)
    if not n_left_out:
        return part.identity.totals
    weight = np.zeros(spill.n_columns)
    weight[features] = 1.0
    totals = np.zeros_like(part.identity.totals)

    def add(number: int) -> int:
        for rows, lengths, columns, counts in spill.frames(number):
            add_row_sums(rows, lengths, columns, counts, weight, totals)
        return 0

    reduce_items(add, range(spill.n_buckets), lambda a, b: 0)
    return totals
