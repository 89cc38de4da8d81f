"""Principal components of log-normalised genes of a store of any size.

Two ways, chosen by the number of genes. Up to 4,096 genes (the variable ones, usually) their covariance fits in memory:
it is summed over blocks of cells in one pass, and the components are exact. With more genes the covariance is only ever
multiplied with a few vectors: block Lanczos iteration (Golub and Underwood 1977; from random vectors, Musco and Musco
2015) takes some passes over the store, and memory is genes x vectors.

All sums are over cells, so they can be taken in parts and merged: by threads here, over shards elsewhere.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.linalg
from scipy import sparse

from data_loaders.errors import BadInput, nearest
from data_loaders.parallel import reduce_items
from data_loaders.progress import progress
from data_loaders.reading.rows import SparseRows
from data_loaders.seeds import Statistics, generator
from data_loaders.statistics import variable_genes as seurat_v3
from data_loaders.statistics.csr import choose_columns
from data_loaders.statistics.sums import GeneMoments

SCALE = 1e4
COVARIANCE_GENES = 4096  # 128 MiB a covariance in float64
BLOCK = 2048  # cells read at a time
PARTS = 16  # of the cells, each summed by one thread: fixed, so that sums do not depend on the number of cores
SPARSE_SHARE = 0.1  # non-zeros below which products of pairs of them are faster than BLAS on dense rows
EXTRA_VECTORS = 10
PASSES = 8


def log_normalise(counts, genes=None):
    """Scale each cell to 1e4 counts over all genes and take log1p.

    Parameters
    ----------
    counts : scipy CSR or SparseRows (n, G)
    genes : integer array, optional
        Columns to keep, after scaling, in this order.

    Returns
    -------
    scipy CSR float64 (n, G or len(genes))
        A cell without counts stays zero.
    """
    counts = counts.to_scipy() if isinstance(counts, SparseRows) else sparse.csr_matrix(counts)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    if genes is not None:
        columns = np.full(counts.shape[1], -1, np.int64)
        columns[genes] = np.arange(len(genes))
        counts = choose_columns(counts, columns, len(genes))
    values = counts.data * np.repeat(SCALE / np.maximum(totals, 1.0), np.diff(counts.indptr))
    return sparse.csr_matrix((np.log1p(values), counts.indices, counts.indptr), shape=counts.shape)


class CovarianceSums:
    """Number of cells, sum and sum of outer products of their values, added block by block and merged."""

    def __init__(self, n_features):
        self.n_cells = 0
        self.total = np.zeros(n_features)
        self.outer = np.zeros((n_features, n_features))  # the upper triangle counts

    def add(self, block):
        """Add a block (n, n_features): an array, or scipy CSR with sorted columns."""
        self.n_cells += block.shape[0]
        self.total += np.asarray(block.sum(axis=0)).ravel()
        if sparse.issparse(block) and block.nnz < SPARSE_SHARE * np.prod(block.shape):
            _add_outer(block.data, block.indices, block.indptr, self.outer)
        else:
            block = block.toarray() if sparse.issparse(block) else block
            self.outer += block.T @ block

    def merge(self, other):
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.total += other.total
        self.outer += other.outer
        return self

    def mean(self):
        """Mean (n_features,)."""
        return self.total / max(self.n_cells, 1)

    def covariance(self):
        """Covariance (n_features, n_features), divided by n - 1."""
        mean = self.mean()
        outer = np.triu(self.outer)
        outer += np.triu(outer, 1).T
        return (outer - self.n_cells * np.outer(mean, mean)) / max(self.n_cells - 1, 1)

    def components(self, genes, n_pcs):
        """The `Components` of these cells; `genes` (n_features,) are the columns of the counts that were added."""
        covariance, last = self.covariance(), len(genes) - 1
        variance, vectors = scipy.linalg.eigh(covariance, subset_by_index=[last - n_pcs + 1, last])
        return Components(genes, self.mean(), _signed(vectors[:, ::-1]), variance[::-1], float(np.trace(covariance)))


class ProductSums:
    """Sums over cells of x, x^2 and x (x . v) for some vectors v: what multiplies the covariance with them."""

    def __init__(self, vectors):
        self.vectors, self.n_cells = vectors, 0
        self.total, self.squares = np.zeros(len(vectors)), np.zeros(len(vectors))
        self.product = np.zeros_like(vectors)

    def add(self, block):
        """Add a block, scipy CSR (n, n_features)."""
        self.n_cells += block.shape[0]
        self.total += np.asarray(block.sum(axis=0)).ravel()
        self.squares += np.bincount(block.indices, weights=block.data**2, minlength=len(self.squares))
        self.product += block.T @ (block @ self.vectors)

    def merge(self, other):
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        for name in ("total", "squares", "product"):
            getattr(self, name)[:] += getattr(other, name)
        return self

    def mean(self):
        """Mean (n_features,)."""
        return self.total / self.n_cells

    def covariance_product(self):
        """Covariance times the vectors (n_features, n_vectors)."""
        mean = self.mean()
        return (self.product - self.n_cells * np.outer(mean, mean @ self.vectors)) / max(self.n_cells - 1, 1)

    def total_variance(self):
        """Sum of the variances of all features."""
        return float((self.squares - self.n_cells * self.mean() ** 2).sum() / max(self.n_cells - 1, 1))


@dataclass(frozen=True)
class Components:
    """Principal components of log-normalised counts.

    Attributes
    ----------
    genes : int array (F,)
        Columns of the counts that are used.
    mean : float64 array (F,)
        Of the log-normalised values.
    loadings : float64 array (F, C)
        Orthonormal columns, the strongest first; the largest entry of each is positive.
    variance : float64 array (C,)
        Along each component, divided by n - 1.
    total_variance : float
        Of all F genes.
    """

    genes: np.ndarray
    mean: np.ndarray
    loadings: np.ndarray
    variance: np.ndarray
    total_variance: float

    @property
    def variance_ratio(self):
        """Share of the variance that each component has (C,)."""
        return self.variance / self.total_variance

    def project(self, counts, *, centred=True):
        """Coordinates (n, C) of raw counts (n, G), scipy CSR or SparseRows; the mean taken off if centred."""
        parts = [np.empty((0, self.loadings.shape[1]))]
        for start in range(0, counts.shape[0], BLOCK):
            parts.append(log_normalise(counts[start : start + BLOCK], self.genes) @ self.loadings)
        return np.concatenate(parts) - (self.mean @ self.loadings if centred else 0.0)


def pca(atlas, n_pcs=50, *, genes=None, rows=None, seed=0):
    """Principal components of log-normalised genes, out of core.

    Cells are scaled to 1e4 counts over all genes of the atlas, then log1p; genes are centred, not scaled.

    Parameters
    ----------
    atlas : Atlas
    n_pcs : int
    genes : None, int, or sequence of str
        All genes; so many of the most variable ones (`variable_genes`); or these.
    rows : integer array, optional
        Only these cells, such as `atlas.rows("train")`; all by default.
    seed : int
        Of the vectors that the iteration starts with when there are more than 4,096 genes.

    Returns
    -------
    Components
        Exact up to rounding for at most 4,096 genes. With more, the leading components agree with an exact
        decomposition to the figures of `docs/loading.md`; those whose variance is close to that of the noise are less
        certain, as in every iterative method.

    Raises
    ------
    BadInput
        An unknown gene or row, counts that are not sparse, no cells, or more components than cells or genes allow.
    """
    rows = _checked_rows(atlas, rows)
    genes = _chosen_genes(atlas, genes, rows)
    most = min(len(genes), len(rows) - 1)
    if not 1 <= n_pcs <= most:
        raise BadInput(
            f"{atlas.name}: {n_pcs} components of {len(rows):,} cells and {len(genes):,} genes; expected 1 to {most:,}"
        )
    if len(genes) <= COVARIANCE_GENES:
        sums = _sum_over(atlas, rows, genes, lambda: CovarianceSums(len(genes)), "pca")
        return sums.components(genes, n_pcs)

    def multiply(vectors, step):
        return _sum_over(atlas, rows, genes, lambda: ProductSums(vectors), f"pca, pass {step + 1} of {PASSES}")

    loadings, variance, sums = lanczos(len(genes), n_pcs, seed, multiply)
    return Components(genes, sums.mean(), loadings, variance, sums.total_variance())


def variable_genes(atlas, n_genes, rows=None):
    """The most variable genes of an atlas by Seurat 3's method on raw counts, out of core.

    The same genes as `scanpy.pp.highly_variable_genes(flavor="seurat_v3")` finds, in two passes.

    Parameters
    ----------
    atlas : Atlas
    n_genes : int
    rows : integer array, optional
        Only these cells; all by default.

    Returns
    -------
    int array (n_genes,), sorted

    Raises
    ------
    BadInput
        An unknown row, counts that are not sparse, no cells, more genes than there are, or too few different counts.
    """
    rows = _checked_rows(atlas, rows)
    if not 1 <= n_genes <= atlas.n_genes:
        raise BadInput(f"{atlas.name}: {n_genes} variable genes asked for; expected 1 to {atlas.n_genes:,}")

    moments = _sum_over(atlas, rows, None, lambda: _Moments(atlas.n_genes), "gene moments", normalise=False)
    mean, n = moments.mean(), moments.n_cells
    try:
        expected = seurat_v3.expected_variance(mean, moments.variance())
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{atlas.name}: variable genes: the loess curve cannot be fitted ({reason})") from error
    clip = seurat_v3.clip_at(mean, expected, n)
    sums = _sum_over(atlas, rows, None, lambda: seurat_v3.ClippedSums(clip), "variable genes", normalise=False)
    return seurat_v3.top(seurat_v3.standardised_variance(mean, expected, n, sums.total, sums.squares), n_genes)


class _Moments(GeneMoments):
    """`GeneMoments` that take whole blocks."""

    def add(self, block):
        super().add(block.data, block.indices, block.indptr)


def lanczos(n_features, n_pcs, seed, multiply, passes=PASSES):
    """Leading eigenvectors of a covariance by block Lanczos iteration with full reorthogonalisation.

    Parameters
    ----------
    n_features, n_pcs : int
    seed : int
        Of the vectors that the iteration starts with.
    multiply : callable (vectors (n_features, V), pass) -> ProductSums
        Sums over all cells: one pass over them.
    passes : int

    Returns
    -------
    loadings : float64 array (n_features, n_pcs)
    variance : float64 array (n_pcs,)
    sums : ProductSums
        Of the last pass.
    """
    rng = generator(seed, Statistics.LANCZOS)
    width = min(n_pcs + EXTRA_VECTORS, n_features)
    basis = np.empty((n_features, passes * width))
    projected = np.zeros((passes * width, passes * width))  # covariance within the basis; its upper blocks
    vectors = np.linalg.qr(rng.standard_normal((n_features, width)))[0]
    for step in range(passes):
        sums = multiply(vectors, step)
        own, known = slice(step * width, (step + 1) * width), slice((step + 1) * width)
        basis[:, own] = vectors
        vectors = sums.covariance_product()
        projected[known, own] = basis[:, known].T @ vectors
        for _ in range(2):  # once leaves rounding errors that grow, and of few cells nothing but them
            vectors = np.linalg.qr(vectors - basis[:, known] @ (basis[:, known].T @ vectors))[0]
    variance, inside = np.linalg.eigh(projected, UPLO="U")  # Rayleigh and Ritz
    variance, inside = variance[::-1][:n_pcs], inside[:, ::-1][:, :n_pcs]
    return _signed(basis @ inside), variance, sums


def _sum_over(atlas, rows, genes, new, what, normalise=True):
    """`new()` sums with all cells added, block by block, log-normalised if so wanted."""
    parts = min(PARTS, -(-len(rows) // BLOCK))
    bounds = np.linspace(0, len(rows), parts + 1).astype(np.int64)
    with progress(what, len(rows), "cells") as advance:

        def part(number):
            sums = new()
            for start in range(bounds[number], bounds[number + 1], BLOCK):
                block = atlas.read(rows[start : min(start + BLOCK, bounds[number + 1])])
                sums.add(log_normalise(block, genes) if normalise else block)
                advance(len(block))
            return sums

        return reduce_items(part, range(parts), lambda a, b: a.merge(b))


def _checked_rows(atlas, rows):
    if not isinstance(atlas.read(np.arange(min(1, atlas.n_cells))), SparseRows):
        raise BadInput(f"{atlas.name}: its {atlas.modalities[0]} is dense; expected sparse counts")
    rows = np.arange(atlas.n_cells) if rows is None else np.asarray(rows)
    if len(rows) == 0:
        raise BadInput(f"{atlas.name}: no cells selected; expected some")
    return rows


def _chosen_genes(atlas, genes, rows):
    """Columns of the genes asked for, sorted where they are not named."""
    if genes is None:
        return np.arange(atlas.n_genes)
    if isinstance(genes, int | np.integer):
        return variable_genes(atlas, int(genes), rows)
    columns = atlas.genes.get_indexer(list(genes))
    if (columns < 0).any():
        unknown = list(genes)[int(np.flatnonzero(columns < 0)[0])]
        raise BadInput(f"{atlas.name}: no gene {unknown!r}; {nearest(str(unknown), atlas.genes)}")
    return columns


def _signed(vectors):
    """Columns with their largest entry positive: the sign of an eigenvector is arbitrary."""
    strongest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[strongest, np.arange(vectors.shape[1])])


@numba.njit(nogil=True, cache=True)
def _add_outer(data, indices, indptr, outer):
    """Add the products of all pairs of a row's values to the upper triangle of `outer`."""
    for row in range(len(indptr) - 1):
        values, columns = data[indptr[row] : indptr[row + 1]], indices[indptr[row] : indptr[row + 1]]
        for i in range(len(columns)):
            target, value = outer[columns[i]], values[i]
            for k in range(i, len(columns)):
                target[columns[k]] += value * values[k]
