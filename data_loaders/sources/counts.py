"""What counts are: whole numbers, zero or more. Everything else is refused with its place and its likely cause."""

import numpy as np
from scipy.sparse import csr_matrix

from data_loaders.errors import BadInput
from data_loaders.sources.source import Source
from data_loaders.types import Array, Bools, Ints

LARGEST = np.iinfo(np.uint32).max
LOG_CEILING = 20.0  # log1p of any depth stays below; normalised but unlogged values usually do not


def fault(values: Array) -> str | None:
    """What keeps values from being counts, in words; None if nothing does."""
    if values.dtype.kind not in "biuf":
        return f"values of type {values.dtype}"
    if values.size == 0:
        return None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "NaN or infinite values"
    smallest, largest = values.min(), values.max()
    if smallest < 0:
        return f"negative values (smallest {smallest:.4g})"
    if values.dtype.kind == "f" and (values != np.rint(values)).any():
        looks = ", looks log-transformed" if largest < LOG_CEILING else ""
        return f"fractional values (largest {largest:.4g}{looks})"
    if largest > LARGEST:
        return f"values above {LARGEST} (largest {largest:.4g})"
    return None


def _as_named(values: Array) -> Bools:
    """Which values have the fault that `fault` names."""
    kinds = (~np.isfinite(values), values < 0, values != np.rint(values), values > LARGEST)
    return next(kind for kind in kinds if kind.any())


def as_counts(block: csr_matrix, rows: Ints, source: Source) -> csr_matrix:
    """Check a block and return it as counts: CSR, uint32 values, sorted columns, no stored zeros.

    Parameters
    ----------
    block : scipy CSR (n, features)
    rows : int (n,)
        Cell numbers, to name the place.
    source : sources.Source

    Raises
    ------
    BadInput
        Naming the first bad value's cell and feature.
    """
    problem = fault(block.data)
    if problem is not None:
        values = block.data
        at = int(np.flatnonzero(_as_named(values))[0])
        cell = source.obs.index[rows[np.searchsorted(block.indptr, at, side="right") - 1]]
        named = source.var.index[source.features == block.indices[at]]
        gene = f"gene {str(named[0])!r}" if len(named) else f"feature {block.indices[at]}"
        another = f"; name another matrix by {source.choices}" if source.choices else ""
        raise BadInput(
            f"{source.matrix.name}: {problem}, the first in cell {str(cell)!r}, {gene}: {values[at]:.6g}; "
            f"expected raw counts (whole numbers, 0 or more){another}"
        )
    block.data = block.data.astype(np.uint32)
    block.eliminate_zeros()
    block.sort_indices()
    return block
