"""Principal components of log-normalised genes of a store of any size.

Two ways, chosen by the number of genes. Up to 4,096 genes (the variable ones, usually) their covariance fits in memory:
it is summed over blocks of cells in one pass, and the components are exact. With more genes the covariance is only ever
multiplied with a few vectors: block Lanczos iteration (Golub and Underwood 1977; from random vectors, Musco and Musco
2015) takes some passes over the store, and memory is genes x vectors.

All sums are over cells, so they can be taken in parts and merged: by threads here, over shards elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numba
import numpy as np
import scipy.linalg
from scipy import sparse

from data_loaders.errors import BadInput, nearest
from data_loaders.reading.atlas import Atlas
from data_loaders.reading.rows import SparseRows
from data_loaders.seeds import Statistics, generator
from data_loaders.statistics.normalisation import log_normalise
from data_loaders.statistics.sums import BLOCK, checked_rows, sum_over
from data_loaders.statistics.variable_genes import variable_genes
from data_loaders.types import Floats, Ints

COVARIANCE_GENES = 4096  # 128 MiB a covariance in float64
SPARSE_SHARE = 0.1  # non-zeros below which products of pairs of them are faster than BLAS on dense rows
EXTRA_VECTORS = 10
PASSES = 8


class CovarianceSums:
    """Number of cells, sum and sum of outer products of their values, added block by block and merged."""

    def __init__(self, n_features: int) -> None:
        self.n_cells = 0
        self.total = np.zeros(n_features)
        self.outer = np.zeros((n_features, n_features))  # the upper triangle counts

    def add(self, block: Any) -> None:
        """Add a block (n, n_features): an array, or scipy CSR with sorted columns."""
        self.n_cells += block.shape[0]
        self.total += np.asarray(block.sum(axis=0)).ravel()
        if sparse.issparse(block) and block.nnz < SPARSE_SHARE * np.prod(block.shape):
            _add_outer(block.data, block.indices, block.indptr, self.outer)
        else:
            block = block.toarray() if sparse.issparse(block) else block
            self.outer += block.T @ block

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.total += other.total
        self.outer += other.outer
        return self

    def mean(self) -> Floats:
        """Mean (n_features,)."""
        return self.total / max(self.n_cells, 1)

    def covariance(self) -> Floats:
        """Covariance (n_features, n_features), divided by n - 1."""
        mean = self.mean()
        outer = np.triu(self.outer)
        outer += np.triu(outer, 1).T
        return (outer - self.n_cells * np.outer(mean, mean)) / max(self.n_cells - 1, 1)

    def components(self, genes: Ints, n_pcs: int) -> "Components":
        """The `Components` of these cells; `genes` (n_features,) are the columns of the counts that were added."""
        covariance, last = self.covariance(), len(genes) - 1
        variance, vectors = scipy.linalg.eigh(covariance, subset_by_index=[last - n_pcs + 1, last])
        return Components(genes, self.mean(), _signed(vectors[:, ::-1]), variance[::-1], float(np.trace(covariance)))


class ProductSums:
    """Sums over cells of x, x^2 and x (x . v) for some vectors v: what multiplies the covariance with them."""

    def __init__(self, vectors: Floats) -> None:
        self.vectors, self.n_cells = vectors, 0
        self.total, self.squares = np.zeros(len(vectors)), np.zeros(len(vectors))
        self.product = np.zeros_like(vectors)

    def add(self, block: sparse.csr_matrix) -> None:
        """Add a block, scipy CSR (n, n_features)."""
        self.n_cells += block.shape[0]
        self.total += np.asarray(block.sum(axis=0)).ravel()
        self.squares += np.bincount(block.indices, weights=block.data**2, minlength=len(self.squares))
        self.product += block.T @ (block @ self.vectors)

    def merge(self, other: Self) -> Self:
        """Add the sums of other cells and return self."""
        self.n_cells += other.n_cells
        self.total += other.total
        self.squares += other.squares
        self.product += other.product
        return self

    def mean(self) -> Floats:
        """Mean (n_features,)."""
        return self.total / self.n_cells

    def covariance_product(self) -> Floats:
        """Covariance times the vectors (n_features, n_vectors)."""
        mean = self.mean()
        return (self.product - self.n_cells * np.outer(mean, mean @ self.vectors)) / max(self.n_cells - 1, 1)

    def total_variance(self) -> float:
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

    genes: Ints
    mean: Floats
    loadings: Floats
    variance: Floats
    total_variance: float

    @property
    def variance_ratio(self) -> Floats:
        """Share of the variance that each component has (C,)."""
        return self.variance / self.total_variance

    def project(self, counts: Any, *, centred: bool = True) -> Floats:
        """Coordinates (n, C) of raw counts (n, G), scipy CSR or SparseRows; the mean taken off if centred."""
        parts = [np.empty((0, self.loadings.shape[1]))]
        for start in range(0, counts.shape[0], BLOCK):
            parts.append(log_normalise(counts[start : start + BLOCK], self.genes) @ self.loadings)
        return np.concatenate(parts) - (self.mean @ self.loadings if centred else 0.0)


def pca(
    atlas: Atlas,
    n_pcs: int = 50,
    *,
    genes: int | Sequence[str] | None = None,
    rows: Ints | None = None,
    seed: int = 0,
) -> Components:
    """Principal components of log-normalised genes, out of core.

    Cells are scaled to 1e4 counts over all genes of the atlas, then log1p; genes are centred, not scaled.

    Parameters
    ----------
    atlas : Atlas
    n_pcs : int
    genes : None, int, or sequence of str
        All genes; this number of the most variable ones (`variable_genes`); or the named ones.
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
    rows = checked_rows(atlas, rows)
    columns = _chosen_genes(atlas, genes, rows)
    most = min(len(columns), len(rows) - 1)
    if not 1 <= n_pcs <= most:
        raise BadInput(
            f"{atlas.name}: {n_pcs} components of {len(rows):,} cells and {len(columns):,} genes; "
            f"expected 1 to {most:,}"
        )

    def normalised(block: SparseRows) -> sparse.csr_matrix:
        return log_normalise(block, columns)

    if len(columns) <= COVARIANCE_GENES:
        covariance = sum_over(atlas, rows, lambda: CovarianceSums(len(columns)), "pca", normalised)
        return covariance.components(columns, n_pcs)

    def multiply(vectors: Floats, step: int) -> ProductSums:
        return sum_over(atlas, rows, lambda: ProductSums(vectors), f"pca, pass {step + 1} of {PASSES}", normalised)

    loadings, variance, sums = lanczos(len(columns), n_pcs, seed, multiply)
    return Components(columns, sums.mean(), loadings, variance, sums.total_variance())


def lanczos(
    n_features: int,
    n_pcs: int,
    seed: int,
    multiply: Callable[[Floats, int], ProductSums],
    passes: int = PASSES,
) -> tuple[Floats, Floats, ProductSums]:
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
    sums = multiply(vectors, 0)
    for step in range(passes):
        newest, known = slice(step * width, (step + 1) * width), slice((step + 1) * width)
        basis[:, newest] = vectors
        vectors = sums.covariance_product()
        projected[known, newest] = basis[:, known].T @ vectors
        for _ in range(2):  # once leaves rounding errors that grow, and of few cells nothing but them
            vectors = np.linalg.qr(vectors - basis[:, known] @ (basis[:, known].T @ vectors))[0]
        if step + 1 < passes:
            sums = multiply(vectors, step + 1)
    variance, inside = np.linalg.eigh(projected, UPLO="U")  # Rayleigh and Ritz
    variance, inside = variance[::-1][:n_pcs], inside[:, ::-1][:, :n_pcs]
    return _signed(basis @ inside), variance, sums


def _chosen_genes(atlas: Atlas, genes: int | Sequence[str] | None, rows: Ints) -> Ints:
    """Columns of the genes asked for, sorted where they are not named."""
    if genes is None:
        return np.arange(atlas.n_genes)
    if isinstance(genes, int | np.integer):
        return variable_genes(atlas, int(genes), rows)
    columns: Ints = atlas.genes.get_indexer(list(genes))
    if (columns < 0).any():
        unknown = list(genes)[int(np.flatnonzero(columns < 0)[0])]
        raise BadInput(f"{atlas.name}: no gene {unknown!r}; {nearest(str(unknown), atlas.genes)}")
    return columns


def _signed(vectors: Floats) -> Floats:
    """Columns with their largest entry positive: the sign of an eigenvector is arbitrary."""
    strongest = np.abs(vectors).argmax(axis=0)
    signed: Floats = vectors * np.sign(vectors[strongest, np.arange(vectors.shape[1])])
    return signed


@numba.njit(nogil=True, cache=True)
def _add_outer(data: Floats, indices: Ints, indptr: Ints, outer: Floats) -> None:
    """Add the products of all pairs of a row's values to the upper triangle of `outer`."""
    for row in range(len(indptr) - 1):
        values, columns = data[indptr[row] : indptr[row + 1]], indices[indptr[row] : indptr[row + 1]]
        for i in range(len(columns)):
            target, value = outer[columns[i]], values[i]
            for k in range(i, len(columns)):
                target[columns[k]] += value * values[k]
