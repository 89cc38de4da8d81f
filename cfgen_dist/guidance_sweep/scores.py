"""How near generated cells are to the real cells of an intersection of labels, and how diverse they are."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from cfgen_dist.evaluation.choice import Floor
from cfgen_dist.evaluation.metrics.distances import mmd_linear, wasserstein
from cfgen_dist.evaluation.metrics.structure import manifold_overlap
from cfgen_dist.evaluation.reference import Reference
from cfgen_dist.evaluation.score import values_of_real
from cfgen_dist.evaluation.spaces.log_normalised import Space
from data_loaders import Atlas
from data_loaders.errors import BadInput
from data_loaders.seeds import Generation, generator
from data_loaders.types import Bools, Floats, Ints

REAL_CELLS = 5000  # on which components are fitted and among which neighbours are looked for
TARGET_CELLS = 1000
FEW_CELLS = 20  # the target needs as many
NEIGHBOURS = 10
SETS, FLOOR_SETS = 3, 5  # of generated and of real cells, for the measures of the catalogue


@dataclass(frozen=True, eq=False)
class Target:
    """Real cells of an intersection of labels, among real cells of all labels. Made by `Target.fit`.

    Attributes
    ----------
    labels : dict of str to str
        Attribute → category.
    space : Space
        Principal components of the real cells.
    all_pcs : float64 array (n, C)
        At most 5,000 real cells of the split, drawn at random.
    has : dict of str to bool array (n,)
        Attribute → whether a cell of `all_pcs` is of its category.
    pcs : float64 array (m, C)
        Real cells of the intersection, at most 1,000.
    others : float64 array (k, C)
        Real cells of the intersection outside of the split, at most 1,000.
    reference : Reference
        The real cells of the intersection, ready to score by every measure of the catalogue.
    beside : Reference
        The same beside real cells of the split that are of no such labels, as a second type: for measures that compare
        types, such as fold changes.
    rest : CSR matrix (r, G)
        Counts of the latter, at most 1,000.
    other_counts : CSR matrix (k, G)
        Counts of `others`.
    seed : int
    """

    labels: dict[str, str]
    space: Space
    all_pcs: Floats
    has: dict[str, Bools]
    pcs: Floats
    others: Floats
    reference: Reference
    beside: Reference
    rest: sparse.csr_matrix
    other_counts: sparse.csr_matrix
    seed: int

    @classmethod
    def fit(cls, atlas: Atlas, rows: Ints | None, labels: dict[str, str], seed: int, split: str) -> Self:
        """Read the real cells.

        Parameters
        ----------
        atlas : Atlas
        rows : int64 array, or None for all
            The cells to compare with, sorted.
        labels : dict of str to str
        seed : int
        split : str
            What `rows` are called in messages.

        Raises
        ------
        BadInput
            Fewer than 20 cells of the intersection among `rows`.
        """
        rng = generator(seed, Generation.GUIDANCE)
        everywhere = atlas.rows(**labels)
        rows = np.arange(atlas.n_cells) if rows is None else rows
        inside = np.isin(everywhere, rows, assume_unique=True)
        if inside.sum() < FEW_CELLS:
            what = ", ".join(f"{name}={value}" for name, value in labels.items())
            also = "" if split == "all" else f"; of all cells, {len(everywhere)} are"
            raise BadInput(f"{atlas.name}: {inside.sum()} {split} cells are {what}, expected {FEW_CELLS} or more{also}")
        shown = _some(rows, REAL_CELLS, rng)
        counts = atlas.read(shown).to_scipy()
        space = Space.fit(counts)
        within, outside = (_some(everywhere[keep], TARGET_CELLS, rng) for keep in (inside, ~inside))
        has = {
            name: atlas.small_codes(name)[shown] == atlas.categories(name).index(value)
            for name, value in labels.items()
        }
        target, other_counts = (atlas.read(some).to_scipy() for some in (within, outside))
        pcs, others = space.project(target), space.project(other_counts)
        rest = counts[np.flatnonzero(~np.all(list(has.values()), axis=0))[:TARGET_CELLS]]
        reference = Reference.fit(target, _types(target), seed=seed)
        beside = Reference.fit(sparse.vstack([target, rest], format="csr"), _types(target, rest), seed=seed)
        return cls(labels, space, space.project(counts), has, pcs, others, reference, beside, rest, other_counts, seed)

    def project(self, counts: sparse.csr_matrix) -> Floats:
        """Components (k, C) of counts (k, G)."""
        return self.space.project(counts)

    def score(self, cells: Floats) -> dict[str, float]:
        """Aim and diversity of cells.

        Parameters
        ----------
        cells : float array (k, C)
            In the components of `space`.

        Returns
        -------
        dict
            on_target : share of the 10 nearest real cells that are of the intersection, mean over cells.
            on_NAME : the same for each attribute alone.
            w2, mmd : 2-Wasserstein distance and squared distance of the means, to the real cells of the intersection.
            spread : total variance over that of the real cells of the intersection; 1 is as diverse as they are.
            precision, recall, density, coverage : as `manifold_overlap`, with the real cells of the intersection.
        """
        rng = generator(self.seed, Generation.GUIDANCE, 1)
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self.all_pcs))).fit(self.all_pcs)
        scores = self._shares(near.kneighbors(cells, return_distance=False))
        scores["w2"] = wasserstein(self.pcs, cells, rng)["w2"]
        scores["mmd"] = mmd_linear(self.pcs, cells)
        scores["spread"] = float(cells.var(axis=0, ddof=1).sum() / self.pcs.var(axis=0, ddof=1).sum())
        return scores | manifold_overlap(self.pcs, cells)

    def floor(self, cells: int) -> dict[str, float] | None:
        """`score` of at most `cells` real cells of the intersection outside of the split; None with fewer than 20."""
        return self.score(self.others[:cells]) if len(self.others) >= FEW_CELLS else None

    def size(self, cells: int) -> int:
        """Cells in each set that is compared by the measures: as many as every side has, `cells` of them generated."""
        return min(cells, len(self.pcs), len(self.others))

    def measures_floor(self, cells: int) -> Floor | None:
        """What real cells of the intersection outside of the split score; None with fewer than 20 of them."""
        if len(self.others) < FEW_CELLS:
            return None
        size, sets = self.size(cells), []
        for draw in range(FLOOR_SETS):
            chosen = generator(self.seed, Generation.GUIDANCE, 2, draw).permutation(len(self.others))[:size]
            sets.append(self._measures(self.other_counts[np.sort(chosen)], draw))
        return Floor.of(sets, values_of_real(self.reference.cells))

    def measures(self, counts: sparse.csr_matrix, size: int) -> list[dict[str, float]]:
        """Every measure of the catalogue that generated cells have, of disjoint sets of `size` cells, at most 3."""
        sets = max(1, min(SETS, counts.shape[0] // size))
        return [self._measures(counts[draw * size : (draw + 1) * size], draw) for draw in range(sets)]

    def _measures(self, counts: sparse.csr_matrix, draw: int) -> dict[str, float]:
        """Every measure of a set; those that one type alone does not have are taken beside the rest."""
        found = self.reference.score(counts, _types(counts), draw=draw)
        if self.rest.shape[0] and any(math.isnan(value) for value in found.values()):
            both = sparse.vstack([counts, self.rest], format="csr")
            beside = self.beside.score(both, _types(counts, self.rest), draw=draw, structure=False)
            found |= {key: value for key, value in beside.items() if math.isnan(found[key])}
        return found

    def purity(self) -> dict[str, float] | None:
        """`on_target` and `on_NAME` of the real cells of the intersection, a cell not being its own neighbour.

        None when none of them is among `all_pcs`.
        """
        inside = np.all(list(self.has.values()), axis=0)
        if not inside.any():
            return None
        near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self.all_pcs) - 1)).fit(self.all_pcs)
        return self._shares(near.kneighbors(return_distance=False)[inside])

    def _shares(self, neighbours: Ints) -> dict[str, float]:
        shares = {f"on_{name}": float(has[neighbours].mean()) for name, has in self.has.items()}
        return {"on_target": float(np.all(list(self.has.values()), axis=0)[neighbours].mean())} | shares


def _types(target: sparse.csr_matrix, *rest: sparse.csr_matrix) -> list[str]:
    """The types of cells of the target, and of those of the rest."""
    return ["target"] * target.shape[0] + ["rest"] * sum(counts.shape[0] for counts in rest)


def _some(rows: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """All rows, or `limit` of them drawn at random, in random order: any part of them is a random sample."""
    return rng.permutation(rows)[:limit]
