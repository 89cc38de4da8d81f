"""Who is asked about in an audit: training cells and held-out cells, equally many of every type, and the rest.

Attacks guess whether a cell was among the training cells. They can be judged only where the two kinds differ in
nothing else, so as many training as test cells are drawn of every type. What is left of the training and validation
cells is the floor: real cells in the place of generated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np

from cfgen_dist.evaluation.sources import Cells, Source
from data_loaders.errors import BadInput, nearest
from data_loaders.labels import label_codes
from data_loaders.reading.atlas import Atlas, open_atlas
from data_loaders.seeds import Audit, generator
from data_loaders.types import Array, Bools, Ints

FEW = 20  # training and held-out cells, and generated ones, below which an audit says nothing
FOLDS = 5  # of the held-out cells where no column of donors is given: the reference of a cell leaves out its own
FLOOR_CELLS, FITTED_CELLS = 100_000, 10_000  # at most


@dataclass(frozen=True)
class Donors:
    """The donors of the real cells, or whatever else was held out whole.

    Attributes
    ----------
    column : str
    codes : int array (n_cells,)
        Of the cells of an opened store; -1 for cells without one.
    names : list of str
    """

    column: str
    codes: Ints
    names: list[str]


@dataclass(frozen=True)
class Cohort:
    """The cells of an audit, as rows of the real cells.

    Attributes
    ----------
    members, held_out : int array (n,)
        Training cells and test cells, as many of every type.
    floor : int array (m,)
        Training and validation cells that are no members.
    alike : int array (m,)
        Rows of the generated cells: as many as the floor has, or all. The more cells are given away, the more they
        betray, so the floor is compared with these.
    fitted : int array (k,)
        Rows of the generated cells that the space is fitted to.
    fold : int array (2 n,)
        Of members, then of held-out cells, numbered from 0.
    reference : bool array (folds, n)
        The held-out cells that are the reference of the cells of a fold: none of the fold itself, and of each type as
        many for every fold.
    cluster : int array (2 n,)
        Cells that are drawn together in the bootstrap: those of a donor, or each alone.
    """

    members: Ints
    held_out: Ints
    floor: Ints
    alike: Ints
    fitted: Ints
    fold: Ints
    reference: Bools
    cluster: Ints

    @property
    def rows(self) -> Ints:
        """Members, then held-out cells (2 n,)."""
        return np.concatenate([self.members, self.held_out])

    @property
    def is_member(self) -> Bools:
        """Whether each of `rows` is a member (2 n,)."""
        return np.arange(2 * len(self.members)) < len(self.members)


def donors_of(source: Source, cells: Cells, column: str) -> Donors:
    """Read the column of donors, and check that they were held out whole.

    Parameters
    ----------
    source : path-like, Atlas or AnnData
    cells : Cells
        Of `source`.
    column : str

    Raises
    ------
    BadInput
        No such column, a donor with training and test cells, fewer than two donors on either side.
    """
    if isinstance(source, ad.AnnData):
        if column not in source.obs:
            raise BadInput(f"{cells.name}: no obs column {column!r} for `by`; {nearest(column, source.obs.columns)}")
        codes, names = label_codes(source.obs[column])
    else:
        atlas = source if isinstance(source, Atlas) else open_atlas(source)
        if column not in atlas.obs_columns:
            raise BadInput(f"{cells.name}: no obs column {column!r} for `by`; {nearest(column, atlas.obs_columns)}")
        codes, names = atlas.codes(column), atlas.categories(column)
    codes = np.asarray(codes if cells.store_rows is None else codes[cells.store_rows], np.int64)
    train, test = (_cells_of_each(codes, cells.rows_of(split), len(names)) for split in ("train", "test"))
    both = np.flatnonzero((train > 0) & (test > 0))
    if len(both):
        one = both[0]
        raise BadInput(
            f"{cells.name}: {column} {names[one]!r} has {train[one]:,} training and {test[one]:,} test cells; expected "
            f"`by` to be a column held out whole, as by `ingest(SRC, OUT, holdout='{column}=0.2')`"
        )
    for what, n in (("training", int((train > 0).sum())), ("test", int((test > 0).sum()))):
        if n < 2:
            raise BadInput(f"{cells.name}: {n} of {column} with {what} cells; expected at least 2 for `by`")
    return Donors(column, codes, names)


def held_out_whole(source: Source, cells: Cells) -> list[str]:
    """Label columns of an atlas of which no category has both training and test cells."""
    if isinstance(source, ad.AnnData):
        columns = [name for name in source.obs if str(source.obs[name].dtype) == "category"]
    else:
        columns = (source if isinstance(source, Atlas) else open_atlas(source)).labels
    found = []
    for column in columns:
        if column not in ("split", "is_generated", "shard"):
            try:
                found.append(donors_of(source, cells, column).column)
            except BadInput:
                continue
    return found


def draw_cohort(real: Cells, donors: Donors | None, limit: int, n_generated: int, seed: int) -> Cohort:
    """Draw the cells of an audit.

    Parameters
    ----------
    real : Cells
    donors : Donors, optional
    limit : int
        Of members, and of held-out cells, at most; every type loses its share.
    n_generated : int
        Cells given away; the floor has no more.
    seed : int

    Returns
    -------
    Cohort

    Raises
    ------
    BadInput
        Fewer than `FEW` cells on either side.
    """
    rng = generator(seed, Audit.COHORT)
    known = np.ones(len(real), bool) if donors is None else donors.codes >= 0
    train, test = (real.rows_of(split) for split in ("train", "test"))
    train, test = train[known[train]], test[known[test]]
    pairs = []
    for code in range(len(real.types)):
        sides = [rows[real.codes[rows] == code] for rows in (train, test)]
        n = min(map(len, sides))
        pairs.append([rng.permutation(side)[:n] for side in sides])
    n_pairs = sum(len(members) for members, _ in pairs)
    if n_pairs < FEW:
        raise BadInput(
            f"{real.name}: {n_pairs} pairs of a training and a test cell of the same type; expected at least {FEW}"
        )
    kept = np.minimum(1.0, limit / n_pairs)
    sizes = [max(1, int(np.floor(len(members) * kept))) if len(members) else 0 for members, _ in pairs]
    members, held_out = (
        np.concatenate([pair[side][:size] for pair, size in zip(pairs, sizes, strict=True)]) for side in (0, 1)
    )
    rest = np.setdiff1d(np.flatnonzero(_in_splits(real, ("train", "val")) & known), members)
    floor = rng.permutation(rest)[: min(n_generated, FLOOR_CELLS)]
    alike = np.sort(rng.choice(n_generated, len(floor), replace=False))
    fitted = np.sort(rng.choice(n_generated, min(n_generated, FITTED_CELLS), replace=False))
    fold, cluster = _folds(members, held_out, donors, rng)
    reference = _references(real.codes[held_out], fold[len(members) :], rng)
    if not reference.any():
        where = "" if donors is None else f": no two of {donors.column} have test cells of the same type"
        raise BadInput(f"{real.name}: no held-out cells are left as a reference{where}")
    return Cohort(members, held_out, np.sort(floor), alike, fitted, fold, reference, cluster)


def _folds(members: Ints, held_out: Ints, donors: Donors | None, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Fold and cluster of members and held-out cells.

    A donor of held-out cells is a fold. Each donor of members is given one of these folds by lot: it is to lack as
    large a piece of its reference.
    """
    n = len(members)
    if donors is None:
        return np.concatenate([rng.permutation(n) % FOLDS, rng.permutation(n) % FOLDS]), np.arange(2 * n)
    cluster = donors.codes[np.concatenate([members, held_out])]
    folds = np.unique(cluster[n:])
    given = np.zeros(len(donors.names), np.int64)
    given[folds] = np.arange(len(folds))
    of_members = rng.permutation(np.unique(cluster[:n]))
    given[of_members] = np.arange(len(of_members)) % len(folds)
    return given[cluster], cluster


def _references(types: Ints, fold: Ints, rng: np.random.Generator) -> Bools:
    """For each fold the held-out cells that are its reference, given type and fold of all.

    A type that one donor has most cells of would leave cells of that donor, the most likely ones of that type to be
    asked about, with a smaller reference than others: so all get as many as that one.
    """
    reference = np.zeros((fold.max() + 1, len(fold)), bool)
    for code in np.unique(types):
        cells = np.flatnonzero(types == code)
        n = len(cells) - np.bincount(fold[cells]).max()
        for number in range(len(reference)):
            others = cells[fold[cells] != number]
            reference[number, rng.choice(others, n, replace=False)] = True
    return reference


def _in_splits(real: Cells, splits: Sequence[str]) -> Bools:
    return np.isin(np.asarray(real.split, dtype=object).astype(str), splits)


def _cells_of_each(codes: Ints, rows: Ints, n: int) -> Array:
    chosen = codes[rows]
    return np.bincount(chosen[chosen >= 0], minlength=n)
