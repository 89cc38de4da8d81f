"""`CellSet`: cells seen through the space of the real ones, with everything that scores are computed from."""

from dataclasses import dataclass

import numpy as np

from cfgen_dist.evaluation.metrics.faithfulness import Profile
from cfgen_dist.evaluation.spaces.log_normalised import BLOCK


@dataclass(eq=False)
class CellSet:
    """Cells of one set: the test cells, a generated set, or a set of the floor.

    Attributes
    ----------
    codes : int array (n,)
        Type of each cell, a position in the sorted names of all types.
    pcs : float64 array (n, C)
        Components; memory-mapped when the set was made in shards.
    sums : float64 array (K, C)
        Sum of the components of the cells of each type.
    cells : int64 array (K,)
        Cells of each type.
    profile : Profile
    read : callable
        `read(positions)` gives the counts (CSR) of some cells of the set.
    """

    codes: np.ndarray
    pcs: np.ndarray
    sums: np.ndarray
    cells: np.ndarray
    profile: Profile
    read: object

    def __len__(self):
        return len(self.codes)

    @classmethod
    def scan(cls, read, codes, n_types, space, n_genes, *, centred=True):
        """Read all cells once, block by block.

        Parameters
        ----------
        read : callable
        codes : int array (n,)
        n_types : int
            K.
        space : data_loaders.statistics.pca.Components
        n_genes : int
        centred : bool
            Whether the mean of the real cells is taken off the components.
        """
        profile, parts = Profile(n_genes), []
        for start in range(0, len(codes), BLOCK):
            counts = read(np.arange(start, min(start + BLOCK, len(codes))))
            profile.add(counts)
            parts.append(space.project(counts, centred=centred))
        pcs = np.concatenate(parts) if parts else np.empty((0, space.loadings.shape[1]))
        sums = np.zeros((n_types, pcs.shape[1]))
        np.add.at(sums, codes, pcs)
        return cls(codes, pcs, sums, np.bincount(codes, minlength=n_types), profile, read)

    def of_type(self, code=None):
        """Positions of the cells of a type; of all cells when there is no code."""
        return np.arange(len(self)) if code is None else np.flatnonzero(self.codes == code)

    def mean(self, code=None):
        """Mean components (C,) of the cells of a type, or of all."""
        if code is None:
            return self.sums.sum(axis=0) / self.cells.sum()
        return self.sums[code] / self.cells[code]

    def points(self, positions):
        """Components of some cells, read when they are asked for."""
        return Points(self.pcs, positions)


class Points:
    """Rows of an array that may be larger than memory; indexing reads them."""

    def __init__(self, values, rows):
        self.values, self.rows = values, rows

    def __len__(self):
        return len(self.rows)

    @property
    def shape(self):
        """(n, C)."""
        return len(self.rows), self.values.shape[1]

    def __getitem__(self, chosen):
        return np.asarray(self.values[self.rows[chosen]])

    def __array__(self, dtype=None, copy=None):
        return self[:] if dtype is None else self[:].astype(dtype)
