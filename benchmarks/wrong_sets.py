"""Cells that are wrong in one known way, made from real ones: what a measure must see is known.

Every maker takes real cells and gives cells that are wrong by a strength, and right when it is 0. Counts stay whole
numbers. Unless the fault is one of depth, a cell keeps the total of its counts, on average at least.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors

from data_loaders.statistics.normalisation import log_normalise

PROGRAMME_GENES = 50
RARE_COUNTS = 0.2  # share of all counts that fall on the rare genes


@dataclass(frozen=True)
class Cells:
    """Cells in memory.

    Attributes
    ----------
    counts : scipy CSR of int64 (n, G)
    types, batches : arrays of str (n,)
    """

    counts: sparse.csr_matrix
    types: np.ndarray
    batches: np.ndarray

    def __len__(self):
        return len(self.types)

    def __getitem__(self, rows):
        return Cells(self.counts[rows], self.types[rows], self.batches[rows])


def joined(parts):
    """The cells of several `Cells`, one after the other."""
    return Cells(
        sparse.vstack([part.counts for part in parts], format="csr"),
        np.concatenate([part.types for part in parts]),
        np.concatenate([part.batches for part in parts]),
    )


def without_types(cells, dropped):
    """Cells of all types but some."""
    return cells[np.flatnonzero(~np.isin(cells.types, dropped))]


def recomposed(cells, strength, rng):
    """Types with other shares: the larger a type, the more of its cells are lost.

    The largest loses half of them at strength 1, the rarest none, the others by their rank. No cell is there twice.
    """
    kinds, number = np.unique(cells.types, return_counts=True)
    rank = np.argsort(np.argsort(-number, kind="stable")) / max(len(kinds) - 1, 1)
    wanted = np.ceil(number * (1 - strength / 2 * (1 - rank)) - 1e-9).astype(int)
    rows = [rng.permutation(np.flatnonzero(cells.types == kind))[:n] for kind, n in zip(kinds, wanted, strict=True)]
    return cells[np.sort(np.concatenate(rows))]


def ambient(cells, strength, rng):
    """A share of each cell's counts drawn from the mean profile of all cells, as from broken cells in the droplets."""
    profile = np.asarray(cells.counts.sum(axis=0), float).ravel()
    kept = thinned(cells.counts, 1 - strength, rng)
    lost = _totals(cells.counts) - _totals(kept)
    return replace(cells, counts=kept + drawn(lost, profile, rng))


def shuffled(cells, strength, rng):
    """A share of the genes, each permuted among the cells of a type: right by itself, unrelated to all others."""
    chosen = np.flatnonzero(rng.random(cells.counts.shape[1]) < strength)
    columns = cells.counts[:, chosen].toarray()
    for kind in np.unique(cells.types):
        rows = np.flatnonzero(cells.types == kind)
        columns[rows] = rng.permuted(columns[rows], axis=0)
    return replace(cells, counts=_with_columns(cells.counts, chosen, columns))


def shallower(cells, strength, rng):
    """Cells that lost a share of their counts, each count by chance."""
    return replace(cells, counts=thinned(cells.counts, 1 - strength, rng))


def deeper(cells, strength, rng):
    """Cells with more counts by a share (1: twice as many), each more by chance."""
    return replace(cells, counts=scaled(cells.counts, np.full(cells.counts.shape[1], 1 + strength), rng))


def flattened(cells, strength, rng):
    """A programme that varies less inside each type, while the means of its genes stay.

    The programme is the `PROGRAMME_GENES` genes of the strongest component inside types. A share of their counts, cell
    by cell, is drawn anew from the mean profile of the type's cells.
    """
    chosen = programme(cells)
    return _towards_type(cells, strength, rng, chosen)


def weakened(cells, strength, rng):
    """A programme that is expressed less: its genes lose a share of their counts in every cell."""
    factor = np.ones(cells.counts.shape[1])
    factor[programme(cells)] = 1 - strength
    return replace(cells, counts=scaled(cells.counts, factor, rng))


def dispersed(cells, strength, rng):
    """Counts that scatter too much: a share of them drawn again, around the same mean, with the variance m + m^2."""
    kept = thinned(cells.counts, 1 - strength, rng)
    gone = (cells.counts - kept).astype(np.int64)
    gone.data = rng.poisson(gone.data * rng.exponential(size=gone.nnz))
    return replace(cells, counts=_clean(kept + gone))


def starved(cells, strength, rng):
    """Rare genes that lose a share of their counts: all but the most abundant ones that hold 80 % of the counts."""
    total = np.asarray(cells.counts.sum(axis=0), float).ravel()
    order = np.argsort(total, kind="stable")
    rare = order[np.cumsum(total[order]) <= RARE_COUNTS * total.sum()]
    factor = np.ones(len(total))
    factor[rare] = 1 - strength
    return replace(cells, counts=scaled(cells.counts, factor, rng))


def exaggerated(cells, strength, rng):
    """Types that differ more than they do: genes times (level in the type / level in all cells)^strength.

    As guidance does; negative strengths make types more alike.
    """
    profile = np.asarray(cells.counts.sum(axis=0), float).ravel()
    parts, rows = [], []
    for kind in np.unique(cells.types):
        own = np.flatnonzero(cells.types == kind)
        level = np.asarray(cells.counts[own].sum(axis=0), float).ravel()
        ratio = (level / level.sum() + 1e-5) / (profile / profile.sum() + 1e-5)
        factor = ratio**strength
        factor *= level.sum() / (factor * level).sum()  # as many counts as before
        parts.append(scaled(cells.counts[own], factor, rng))
        rows.append(own)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return replace(cells, counts=sparse.vstack(parts, format="csr")[order])


def relabelled(cells, strength, rng):
    """A share of the cells with their types dealt anew among them."""
    return replace(cells, types=_dealt(cells.types, strength, rng))


def rebatched(cells, strength, rng):
    """A share of the cells of each type with their batches dealt anew among them."""
    batches = cells.batches.copy()
    for kind in np.unique(cells.types):
        rows = np.flatnonzero(cells.types == kind)
        batches[rows] = _dealt(batches[rows], strength, rng)
    return replace(cells, batches=batches)


def copied(cells, strength, rng, train):
    """A share of the cells replaced by training cells of the same type, copied as they are; fewer where there are few.

    `train` is `Cells`.
    """
    rows, source = [], []
    for kind in np.unique(cells.types):
        own, theirs = (np.flatnonzero(each.types == kind) for each in (cells, train))
        n = min(round(strength * len(own)), len(theirs))
        rows.append(rng.permutation(own)[:n])
        source.append(rng.permutation(theirs)[:n])
    rows, source = np.concatenate(rows), np.concatenate(source)
    kept = np.setdiff1d(np.arange(len(cells)), rows)
    return joined([cells[kept], train[source]])


def collapsed(cells, strength, rng):
    """Fewer different cells: of each type a share is gone, and others stand there twice or more often."""
    rows = []
    for kind in np.unique(cells.types):
        own = rng.permutation(np.flatnonzero(cells.types == kind))
        different = max(1, round((1 - strength) * len(own)))
        rows.append(np.resize(own[:different], len(own)))
    return cells[np.concatenate(rows)]


def averaged(cells, strength, rng):
    """Cells drawn from the mean of themselves and a share of their type: its nearest cells, from none to all.

    Each keeps its total. Nearest is by 20 components of log-normalised counts.
    """
    neighbours = []
    rows = [np.flatnonzero(cells.types == kind) for kind in np.unique(cells.types)]
    space = _components(cells, 20)
    for own in rows:
        k = max(1, round(strength * len(own)))
        near = NearestNeighbors(n_neighbors=k).fit(space[own]).kneighbors(space[own], return_distance=False)
        neighbours.append(
            sparse.csr_matrix((np.ones(near.size), (np.repeat(own, k), own[near.ravel()])), (len(cells),) * 2)
        )
    mean = (sum(neighbours) @ _shares(cells.counts)).tocsr()
    totals, counts = _totals(cells.counts), []
    for row, total in enumerate(totals):
        one = mean[row]
        found = rng.multinomial(total, one.data / one.data.sum()) if one.nnz else one.data
        counts.append(sparse.csr_matrix((found, one.indices, [0, one.nnz]), one.shape))
    new = _clean(sparse.vstack(counts, format="csr").astype(np.int64))
    return cells if strength == 0 else replace(cells, counts=new)


def programme(cells):
    """The genes with the largest weights in the strongest component of log-normalised counts inside types."""
    values = log_normalise(cells.counts)
    kinds, codes = np.unique(cells.types, return_inverse=True)
    members = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (len(kinds), len(codes)))
    means = np.asarray((members @ values).todense()) / np.bincount(codes)[:, None]
    strong = np.argsort(-means.mean(axis=0))[:2000]  # genes that are there to be weakened
    inside = values[:, strong].toarray() - means[codes][:, strong]
    weights = TruncatedSVD(1, random_state=0).fit(inside).components_[0]
    weights = weights * np.sign(weights[np.argmax(np.abs(weights))])
    return np.sort(strong[np.argsort(-weights)[:PROGRAMME_GENES]])


def thinned(counts, share, rng):
    """Each count kept with a probability; CSR int64."""
    new = counts.astype(np.int64)
    new.data = rng.binomial(new.data, share)
    return _clean(new)


def scaled(counts, factor, rng):
    """Each gene's counts times its factor (G,) on average: thinned, or with a Poisson number added."""
    new = counts.astype(np.int64)
    of_entry = factor[new.indices]
    less = rng.binomial(new.data, np.minimum(of_entry, 1.0))
    new.data = less + rng.poisson(new.data * np.maximum(of_entry - 1, 0.0))
    return _clean(new)


def drawn(totals, weights, rng):
    """As many counts for each cell (n,), the genes drawn by weights (G,); CSR int64."""
    edges = np.cumsum(weights) / weights.sum()
    genes = np.minimum(np.searchsorted(edges, rng.random(int(totals.sum())), side="right"), len(weights) - 1)
    rows = np.repeat(np.arange(len(totals)), totals)
    return sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, genes)), shape=(len(totals), len(weights)))


def _towards_type(cells, strength, rng, genes):
    """A share of the counts of some genes drawn anew from their mean profile in the type, as many in each cell.

    How many counts a cell has of all these genes together moves with it: a share of the cell's total, that of the type.
    """
    some = cells.counts[:, genes].astype(np.int64)
    totals, new = _totals(cells.counts), some.toarray()
    for kind in np.unique(cells.types):
        rows = np.flatnonzero(cells.types == kind)
        mean = new[rows].sum(axis=0) / max(totals[rows].sum(), 1)
        kept = rng.binomial(new[rows], 1 - strength)
        new[rows] = kept + rng.poisson(strength * totals[rows][:, None] * mean)
    return replace(cells, counts=_with_columns(cells.counts, genes, new))


def _with_columns(counts, columns, values):
    """The same counts with other values (n, C) in some columns."""
    lil = counts.astype(np.int64).tocsc()
    keep = np.setdiff1d(np.arange(counts.shape[1]), columns)
    both = sparse.hstack([lil[:, keep], sparse.csc_matrix(values.astype(np.int64))], format="csc")
    return _clean(both[:, np.argsort(np.concatenate([keep, columns]), kind="stable")].tocsr())


def _dealt(labels, strength, rng):
    chosen = rng.permutation(len(labels))[: round(strength * len(labels))]
    new = labels.copy()
    new[chosen] = labels[rng.permutation(chosen)]
    return new


def _components(cells, n):
    values = log_normalise(cells.counts)
    return TruncatedSVD(min(n, min(values.shape) - 1), random_state=0).fit_transform(values)


def _shares(counts):
    return sparse.diags(1 / np.maximum(_totals(counts), 1)) @ counts.astype(float)


def _totals(counts):
    return np.asarray(counts.sum(axis=1), np.int64).ravel()


def _clean(counts):
    counts = sparse.csr_matrix(counts)
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts
