"""Real test cells in memory, ready to score any set of cells against: `Reference`, `ChromatinReference`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse
from threadpoolctl import threadpool_limits

from cfgen_dist.evaluation.cellset import CellSet
from cfgen_dist.evaluation.metrics.catalogue import TF_IDF, metrics_of
from cfgen_dist.evaluation.metrics.metric import Metric
from cfgen_dist.evaluation.score import collect, measure, pieces_of
from cfgen_dist.evaluation.sources import check_counts
from cfgen_dist.evaluation.spaces import AnySpace
from cfgen_dist.evaluation.spaces.log_normalised import Space, in_memory
from cfgen_dist.evaluation.spaces.tf_idf import TfIdfSpace, fit_tf_idf
from cfgen_dist.workers.threads import ONE_THREAD
from data_loaders.errors import BadInput, nearest
from data_loaders.types import Array

Counts: TypeAlias = sparse.spmatrix | Array
PROTOCOLS = ("centred", "paper")


class AnyReference(Protocol):
    """What both references are: an evaluation of one shard."""

    @property
    def cells(self) -> CellSet:
        """The test cells."""

    @property
    def names(self) -> Array:
        """Types, sorted (K,)."""

    @property
    def seed(self) -> int:
        """Of all random draws while scoring."""

    @property
    def space(self) -> AnySpace:
        """Fitted on the test cells."""

    def score(self, counts: Counts, labels: Sequence | Array, *, draw: int = 0) -> dict[str, float]:
        """All metrics of one set of cells."""


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
    names: Array
    protocol: str
    seed: int
    space: Space

    @classmethod
    @threadpool_limits.wrap(**ONE_THREAD)
    def fit(cls, counts: Counts, labels: Sequence | Array, *, protocol: str = "centred", seed: int = 0) -> Reference:
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
            An unknown protocol, values that are not counts, fewer than two cells.
        """
        if protocol not in PROTOCOLS:
            raise BadInput(f"`protocol`: unknown {protocol!r}, {nearest(protocol, PROTOCOLS)}")
        counts, labels = check_cells(counts, labels, "test cells")
        if len(labels) < 2:
            raise BadInput(f"test cells: {len(labels)} found, expected at least 2")
        names, codes = np.unique(labels, return_inverse=True)
        space = Space.fit(counts)
        cells = CellSet.scan(counts.__getitem__, codes, len(names), space, counts.shape[1])
        return cls(cells, names, protocol, seed, space)

    def score(
        self, counts: Counts, labels: Sequence | Array, *, draw: int = 0, structure: bool = True
    ) -> dict[str, float]:
        """All metrics of one set of cells; see `compare`."""
        return self.compare(counts, labels, draw=draw, structure=structure)[0]

    @threadpool_limits.wrap(**ONE_THREAD)
    def compare(
        self, counts: Counts, labels: Sequence | Array, *, draw: int = 0, structure: bool = True
    ) -> tuple[dict[str, float], pd.DataFrame]:
        """All metrics of one set of cells, overall and per type.

        Parameters
        ----------
        counts : scipy sparse or array (m, G)
            Raw counts, in general as many cells of each type as the reference has (see `matched_rows`).
        labels : sequence (m,)
        draw : int
            Number of the set: sets with other numbers use other random subsamples.
        structure : bool
            Also the slower metrics, which read counts of single cells.

        Returns
        -------
        metrics : dict of str to float
            Those of `metrics.catalogue.METRICS`, by key.
        types : pandas.DataFrame
            Index: types found on both sides. Columns: `cells` (of this set), `w1`, `w2`, `w1_sd`, `w2_sd` (over
            subsamples), `mmd`, `mmd_rbf`, `knn_f1`, `fold_slope`, `fold_rank`, `fold_top`.

        Raises
        ------
        BadInput
            Values that are not counts, another number of genes, no cells, or a type that no test cell has.
        """
        counts, labels = check_cells(counts, labels, "cells to score")
        n_genes = len(self.cells.profile.nonzero)
        if counts.shape[1] != n_genes:
            raise BadInput(f"cells to score: {counts.shape[1]} genes, expected the {n_genes} of the test cells")
        return _compare(self, counts, labels, draw, metrics_of(counts=structure), self.protocol)


@dataclass(frozen=True, eq=False)
class ChromatinReference:
    """Accessibility of real test cells, ready to score any set of cells against. Made by `ChromatinReference.fit`.

    Attributes
    ----------
    cells : CellSet
    names : array of str (K,)
        Types, sorted.
    binary : bool
        Whether counts are read as open or not.
    seed : int
    space : TfIdfSpace
        Fitted on the test cells.
    """

    cells: CellSet
    names: Array
    binary: bool
    seed: int
    space: TfIdfSpace

    @classmethod
    def fit(cls, counts: Counts, labels: Sequence | Array, *, binary: bool = True, seed: int = 0) -> ChromatinReference:
        """Prepare real test cells.

        Parameters
        ----------
        counts : scipy sparse (n, P)
            Raw counts.
        labels : sequence (n,)
            Type of each cell.
        binary : bool
            Read counts, of these and of all scored cells, as open (1) or not (0): what a Bernoulli model generates.
        seed : int
            Of the subsamples of large sets.

        Raises
        ------
        BadInput
            Fewer than two cells or peaks, values that are not counts.
        """
        counts, labels = check_cells(counts, labels, "test cells")
        if min(counts.shape) < 2:
            raise BadInput(
                f"test cells: {counts.shape[0]} cells x {counts.shape[1]} peaks, expected at least 2 of each"
            )
        counts = counts.sign() if binary else counts
        names, codes = np.unique(labels, return_inverse=True)
        space = fit_tf_idf(counts.shape[1], in_memory(counts))
        cells = CellSet.scan(counts.__getitem__, codes, len(names), space, counts.shape[1])
        return cls(cells, names, binary, seed, space)

    def score(self, counts: Counts, labels: Sequence | Array, *, draw: int = 0) -> dict[str, float]:
        """Distances of a set of cells from the test cells.

        Parameters
        ----------
        counts : scipy sparse (m, P)
            In general as many cells of each type as the reference has (see `matched_rows`).
        labels : sequence (m,)
        draw : int
            Number of the set: sets with other numbers use other random subsamples.

        Returns
        -------
        dict of str to float
            The metrics of the catalogue that need no counts of single cells, and `open`: mean share of peaks open in
            a cell.

        Raises
        ------
        BadInput
            Another number of peaks, a type that no test cell has, no cells, values that are not counts.
        """
        counts, labels = check_cells(counts, labels, "cells to score")
        n_peaks = len(self.space.idf)
        if counts.shape[1] != n_peaks:
            raise BadInput(f"cells to score: {counts.shape[1]} peaks, expected the {n_peaks} of the test cells")
        counts = counts.sign() if self.binary else counts
        return _compare(self, counts, labels, draw, metrics_of(TF_IDF, counts=False))[0]


def _compare(
    reference: AnyReference,
    counts: sparse.csr_matrix,
    labels: Array,
    draw: int,
    metrics: Iterable[Metric],
    protocol: str = "centred",
) -> tuple[dict[str, float], pd.DataFrame]:
    """Score checked cells by some metrics; see `Reference.compare`."""
    if not len(labels):
        raise BadInput("cells to score: none")
    unknown = np.setdiff1d(labels, reference.names).tolist()
    if unknown:
        raise BadInput(f"cells to score: no test cells of type {unknown[0]!r}, {nearest(unknown[0], reference.names)}")
    metrics, codes = list(metrics), np.searchsorted(reference.names, labels)
    scored = CellSet.scan(
        counts.__getitem__, codes, len(reference.names), reference.space, counts.shape[1],
        centred=protocol != "paper",
    )  # fmt: skip
    measured = {
        scorer.name: measure(scorer, reference.cells, scored, protocol=protocol, seed=reference.seed, draw=draw)
        for scorer in pieces_of(metrics)
    }
    return collect(measured, reference.cells, scored, reference.names, metrics)


def check_cells(counts: Counts, labels: Sequence | Array, what: str) -> tuple[sparse.csr_matrix, Array]:
    """Counts as canonical CSR and labels as an array of str, or `BadInput` when they cannot be counts of these cells.

    Parameters
    ----------
    counts : scipy sparse or array (n, G)
    labels : sequence (n,)
    what : str
        How messages call the cells.
    """
    counts = sparse.csr_matrix(counts)
    labels = np.asarray(labels).astype(str)
    if len(labels) != counts.shape[0]:
        raise BadInput(f"{what}: {len(labels)} labels for {counts.shape[0]} cells")
    return check_counts(counts, what), labels
