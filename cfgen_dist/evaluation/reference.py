"""`Reference`: real test cells in memory, ready to score any set of cells against."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.score import PIECES, collect
from cfgen_dist.evaluation.sources import check_counts
from cfgen_dist.evaluation.spaces.log_normalised import Space
from cfgen_dist.workers.threads import ONE_THREAD
from data_loaders.errors import BadInput, nearest

PROTOCOLS = ("centred", "paper")


@dataclass(frozen=True, eq=False)
class Reference:
    """Real test cells with everything that scoring needs: an evaluation of one shard. Made by `Reference.fit`.

    Attributes
    ----------
    cells : CellSet
        Components of the test cells are always centred.
    names : array of str (K,)
        Types, sorted.
    protocol : str
        `centred`, or `paper` as the paper's tables were made: the scored cells are projected without subtracting the
        mean, MMD is the linear-time estimate, and the F1 of the kNN classifier is computed inside each single type.
    seed : int
    space : Space
    """

    cells: CellSet
    names: np.ndarray
    protocol: str
    seed: int
    space: Space

    @classmethod
    @threadpool_limits.wrap(**ONE_THREAD)
    def fit(cls, counts, labels, *, protocol="centred", seed=0):
        """Prepare real test cells.

        Parameters
        ----------
        counts : scipy sparse or array (n, G)
            Raw counts.
        labels : sequence (n,)
            Type of each cell.
        protocol : {"centred", "paper"}
        seed : int
            Of all random draws while scoring.

        Raises
        ------
        BadInput
            An unknown protocol, counts that are none, fewer than two cells.
        """
        if protocol not in PROTOCOLS:
            raise BadInput(f"protocol: unknown {protocol!r}, {nearest(protocol, PROTOCOLS)}")
        counts, labels = check_cells(counts, labels, "test cells")
        if len(labels) < 2:
            raise BadInput(f"test cells: {len(labels)} found, expected at least 2")
        names, codes = np.unique(labels, return_inverse=True)
        space = Space.fit(counts)
        cells = CellSet.scan(counts.__getitem__, codes, len(names), space, counts.shape[1])
        return cls(cells, names, protocol, seed, space)

    def score(self, counts, labels, *, draw=0, structure=True):
        """All metrics of one set of cells; see `compare`.

        Returns
        -------
        dict of str to float
        """
        return self.compare(counts, labels, draw=draw, structure=structure)[0]

    @threadpool_limits.wrap(**ONE_THREAD)
    def compare(self, counts, labels, *, draw=0, structure=True):
        """All metrics of one set of cells, overall and per type.

        Parameters
        ----------
        counts : scipy sparse or array (m, G)
            Raw counts, in general as many cells of each type as the reference has (see `matched_rows`).
        labels : sequence (m,)
        draw : int
            Number of the set: sets with other numbers use other random subsamples.
        structure : bool
            Also the slower metrics of `structure`.

        Returns
        -------
        metrics : dict of str to float
            `w1`, `w2`, `mmd`, `mmd_rbf`: mean over the types where it exists; the same with `_all`: over all cells at
            once; `knn_f1`, the metrics of `faithfulness` and of `structure`.
        types : pandas.DataFrame
            Index: types found on both sides. Columns: `cells` (of this set), `w1`, `w2`, `w1_sd`, `w2_sd` (over
            subsamples), `mmd`, `mmd_rbf`, `knn_f1`.

        Raises
        ------
        BadInput
            Counts that are none, another number of genes, no cells, or a type that the reference has not.
        """
        n_genes = len(self.cells.profile.nonzero)
        counts, labels = check_cells(counts, labels, "cells to score", n_genes=n_genes)
        if not len(labels):
            raise BadInput("cells to score: none")
        unknown = np.setdiff1d(labels, self.names).tolist()
        if unknown:
            raise BadInput(f"cells to score: no test cells of type {unknown[0]!r}, {nearest(unknown[0], self.names)}")
        paper = self.protocol == "paper"
        codes = np.searchsorted(self.names, labels)
        scored = CellSet.scan(counts.__getitem__, codes, len(self.names), self.space, n_genes, centred=not paper)
        pieces = {
            name: piece(self.cells, scored, paper=paper, seed=self.seed, draw=draw)
            for name, piece in PIECES.items()
            if structure or name != "structure"
        }
        return collect(pieces, self.cells, scored, self.names)


def check_cells(counts, labels, what, n_genes=None):
    """Counts as canonical CSR and labels as an array of str, or `BadInput` when they cannot be counts of these cells.

    Parameters
    ----------
    counts : scipy sparse or array (n, G)
    labels : sequence (n,)
    what : str
        How messages call the cells.
    n_genes : int, optional
        G must be this.
    """
    counts = sparse.csr_matrix(counts)
    labels = np.asarray(labels).astype(str)
    if len(labels) != counts.shape[0]:
        raise BadInput(f"{what}: {len(labels)} labels for {counts.shape[0]} cells")
    if n_genes is not None and counts.shape[1] != n_genes:
        raise BadInput(f"{what}: {counts.shape[1]} genes, expected {n_genes}")
    return check_counts(counts, what), labels
