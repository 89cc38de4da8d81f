"""`Reference`: real test cells, ready to score any set of cells against."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from cfgen_dist.evaluate.distances import mmd_linear, mmd_linear_time, mmd_rbf, wasserstein
from cfgen_dist.evaluate.faithfulness import Profile, faithfulness
from cfgen_dist.evaluate.space import Space
from cfgen_dist.evaluate.structure import structure as structure_metrics
from data_loaders.errors import BadInput, nearest

PROTOCOLS = ("centred", "paper")
NEIGHBOURS = 10
MATCH, DISTANCES, STRUCTURE, CONTROL = range(4)  # purposes of random draws
CONDITIONAL = ("w1", "w2", "mmd", "mmd_rbf")


@dataclass(frozen=True, eq=False)
class Reference:
    """Real test cells with everything that scoring needs. Made by `Reference.fit`.

    Attributes
    ----------
    counts : scipy CSR (n, G)
    labels : array of str (n,)
    protocol : str
        `centred`, or `paper` as the paper's tables were made: the scored cells are projected without subtracting the
        mean, MMD is the linear-time estimate, and the F1 of the kNN classifier is computed inside each single type.
    seed : int
    space : Space
    pcs : float64 array (n, C)
        The test cells' components, always centred.
    profile : Profile
    classifier : KNeighborsClassifier
    """

    counts: sparse.csr_matrix
    labels: np.ndarray
    protocol: str
    seed: int
    space: Space
    pcs: np.ndarray
    profile: Profile
    classifier: KNeighborsClassifier

    @classmethod
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
        space = Space.fit(counts)
        pcs = space.project(counts)
        classifier = KNeighborsClassifier(min(NEIGHBOURS, len(labels))).fit(pcs, labels)
        return cls(counts, labels, protocol, seed, space, pcs, Profile.of(counts), classifier)

    def score(self, counts, labels, *, draw=0, structure=True):
        """All metrics of one set of cells; see `compare`.

        Returns
        -------
        dict of str to float
        """
        return self.compare(counts, labels, draw=draw, structure=structure)[0]

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
        counts, labels = check_cells(counts, labels, "cells to score", n_genes=self.counts.shape[1])
        if not len(labels):
            raise BadInput("cells to score: none")
        known = np.unique(self.labels)
        unknown = np.setdiff1d(labels, known).tolist()
        if unknown:
            raise BadInput(f"cells to score: no test cells of type {unknown[0]!r}, {nearest(unknown[0], known)}")
        paper = self.protocol == "paper"
        pcs = self.space.project(counts, centred=not paper)
        rng = self.rng(DISTANCES, draw)
        predicted = self.classifier.predict(pcs)
        types = self._by_type(pcs, labels, predicted, rng)
        metrics = {name: float(types[name].mean()) for name in CONDITIONAL}
        overall = self._distances(self.pcs, pcs, rng)
        metrics |= {f"{name}_all": overall[name] for name in CONDITIONAL}
        metrics["knn_f1"] = float(
            types["knn_f1"].mean() if paper else f1_score(labels, predicted, average="macro", zero_division=0)
        )
        metrics |= faithfulness(self.profile, Profile.of(counts))
        if structure:
            rng = self.rng(STRUCTURE, draw)
            metrics |= structure_metrics(self.counts, counts, self.labels, labels, rng)
        return metrics, types

    def rng(self, purpose, *numbers):
        """Generator for one purpose: a function of the seed and `numbers`, whatever was drawn before."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(purpose, *numbers)))

    def _by_type(self, pcs, labels, predicted, rng):
        rows = {}
        f1 = dict(
            zip(
                np.unique(labels),
                f1_score(labels, predicted, average=None, labels=np.unique(labels), zero_division=0),
                strict=True,
            )
        )
        for kind in np.unique(labels):
            mine = labels == kind
            rows[kind] = {"cells": int(mine.sum()), **self._distances(self.pcs[self.labels == kind], pcs[mine], rng)}
            inside = f1_score(labels[mine], predicted[mine], average="macro", zero_division=0)
            rows[kind]["knn_f1"] = float(inside if self.protocol == "paper" else f1[kind])
        return pd.DataFrame.from_dict(rows, orient="index")

    def _distances(self, real, scored, rng):
        linear = mmd_linear_time if self.protocol == "paper" else mmd_linear
        return wasserstein(real, scored, rng) | {"mmd": linear(real, scored), "mmd_rbf": mmd_rbf(real, scored, rng)}


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
    values = counts.data
    if values.dtype.kind not in "iub":
        if not np.isfinite(values).all():
            raise BadInput(f"{what}: counts hold NaN or infinite values; expected whole numbers")
        if (values != np.rint(values)).any():
            fraction = values[values != np.rint(values)][0]
            raise BadInput(f"{what}: counts hold {fraction:g}; expected whole numbers, not normalised values")
    if values.size and values.min() < 0:
        raise BadInput(f"{what}: counts hold {values.min():g}; expected no negative values")
    if not (counts.has_canonical_format and values.all()):
        counts = counts.copy()
        counts.sum_duplicates()
        counts.eliminate_zeros()
    return counts, labels


def matched_rows(labels, wanted, sets, rng):
    """Disjoint random sets of cells with wanted numbers of each type.

    Parameters
    ----------
    labels : array of str (n,)
    wanted : dict of str to int
        Type → cells of it in each set. A type with fewer than `sets` times as many gives each set an equal share of
        what it has; a type with none is left out.
    sets : int
    rng : numpy.random.Generator

    Returns
    -------
    list of int arrays
        Row numbers of each set, ascending.
    """
    chosen = [[] for _ in range(sets)]
    for kind, n in sorted(wanted.items()):
        mine = rng.permutation(np.flatnonzero(labels == kind))
        size = min(n, len(mine) // sets)
        for k in range(sets):
            chosen[k].append(mine[k * size : (k + 1) * size])
    return [np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64) for parts in chosen]


def independent_genes(counts, labels, wanted, rng):
    """The control without gene-gene structure: every gene drawn independently from real cells of the type.

    Each count of a new cell is that of a random real cell of its type, drawn anew for every gene, so all means,
    variances and dropouts are right within types and everything between genes is lost.

    Parameters
    ----------
    counts : scipy CSR (n, G)
        Real training cells.
    labels : array of str (n,)
    wanted : dict of str to int
        Type → cells to draw; a type without real cells is left out.
    rng : numpy.random.Generator

    Returns
    -------
    counts : scipy CSR (m, G)
    labels : array of str (m,)
    """
    step = 512  # genes made dense at a time
    rows, names = [], []
    for kind, n in sorted(wanted.items()):
        source = counts[np.flatnonzero(labels == kind)].tocsc()
        if not source.shape[0]:
            continue
        blocks = []
        for start in range(0, counts.shape[1], step):
            dense = source[:, start : start + step].toarray()
            picks = rng.integers(len(dense), size=(n, dense.shape[1]))
            blocks.append(sparse.csr_matrix(np.take_along_axis(dense, picks, axis=0)))
        rows.append(sparse.hstack(blocks, format="csr"))
        names.append(np.repeat(kind, n))
    return sparse.vstack(rows, format="csr"), np.concatenate(names)


def summarise(scores):
    """Mean and standard deviation of each metric over sets.

    Parameters
    ----------
    scores : list of dict of str to float

    Returns
    -------
    dict of str to {"mean": float, "sd": float}
        `sd` divides by n - 1 and is zero for a single set.
    """
    table = pd.DataFrame(scores)
    spread = table.std(ddof=1) if len(table) > 1 else table.mean() * 0.0
    return {name: {"mean": float(table[name].mean()), "sd": float(spread[name])} for name in table}
