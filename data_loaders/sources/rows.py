"""Some of the cells of a source: those that a filter or an option leaves in."""

from collections.abc import Iterator

import numpy as np

from data_loaders.obs_filter import ObsFilter
from data_loaders.sources.source import Block, Matrix, Source
from data_loaders.types import Bools, Ints


class ChosenRows:
    """A `sources.source.Matrix` without some of its rows, the others numbered anew."""

    def __init__(self, matrix: Matrix, kept: Bools) -> None:
        self.name, self.n_values, self._matrix = matrix.name, matrix.n_values, matrix
        self.shape = (int(kept.sum()), matrix.shape[1])
        self._new: Ints = np.where(kept, np.cumsum(kept) - 1, -1)

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        for rows, block in self._matrix.blocks():
            new = self._new[rows]
            inside = new >= 0
            if inside.all():
                yield new, block
            elif inside.any():
                yield new[inside], block[inside]


def keep_rows(source: Source, kept: Bools) -> None:
    """Leave the other cells of a source out: from obs, and from the matrix when it is read."""
    if kept.all():
        return
    rows = np.arange(len(kept)) if source.rows is None else source.rows
    source.cells_left_out = source.cells_left_out.append(source.obs.index[~kept])
    source.rows = rows[kept]
    source.obs = source.obs[kept].copy()
    source.matrix = ChosenRows(source.matrix, kept)


def filter_rows(source: Source, expression: str) -> None:
    """Leave out the cells that do not pass a filter over obs; `BadInput` when it cannot be used, or none passes."""
    obs_filter = ObsFilter(expression, source.path)
    passes = obs_filter.passes(source.obs)
    if not passes.any():
        raise obs_filter.none_passes(source.obs)
    source.notes.append(
        f"{source.path}: {int(passes.sum()):,} of {len(passes):,} cells pass the obs filter {expression!r}"
    )
    source.n_filtered = int((~passes).sum())
    keep_rows(source, passes)
