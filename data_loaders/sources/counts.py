"""What counts are: whole numbers, zero or more. Everything else is refused with its place and its likely cause.

Numbers that miss a whole one by no more than floats do are counts. Those that were corrected for ambient RNA (SoupX,
DecontX) have fractions: they are rounded where the user says so, unless they are normalised.
"""

import numpy as np
from scipy.sparse import csr_matrix

from data_loaders.errors import BadInput
from data_loaders.sources.source import Rounding, Source
from data_loaders.types import Array, Bools, Floats, Ints

LARGEST = np.iinfo(np.int32).max  # what every reader holds: scipy, torch and the R packages have int32
LOG_CEILING = 20.0  # log1p of any depth stays below; normalised but unlogged values usually do not


ROUNDING = 1e-6  # relative, at least absolute: the error of floats that were computed with
SAME_SUMS = 1e-3  # spread of the sums of cells, relative to their mean, that only normalisation brings about
FEW_CELLS = 8  # whose sums say nothing
ROUND = "`round_counts=True` rounds counts that SoupX or DecontX corrected"


def fault(values: Array, round_counts: bool = False) -> str | None:
    """What keeps values from being counts, in words; None if nothing does. Fractions may be rounded on request."""
    if values.dtype.kind not in "biuf":
        return f"values of type {values.dtype}"
    if values.size == 0:
        return None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "NaN or infinite values"
    smallest, largest = float(values.min()), float(values.max())  # 2^31 - 1 as float32 would be 2^31
    if smallest < 0:
        return f"negative values (smallest {smallest:.4g})"
    if not round_counts and has_fractions(values):
        looks = ", looks log-transformed" if largest < LOG_CEILING else ""
        return f"fractional values (largest {largest:.4g}{looks})"
    if largest > LARGEST:
        return f"values above {LARGEST} (largest {largest:.4g})"
    return None


def has_fractions(values: Array) -> bool:
    """Whether some values are not whole numbers, beyond the error of floats."""
    if values.dtype.kind != "f":
        return False
    uneven = values[values != np.rint(values)].astype(np.float64)
    return bool((np.abs(uneven - np.rint(uneven)) > ROUNDING * np.maximum(uneven, 1)).any())


def looks_logged(values: Array) -> bool:
    """Whether no value is beyond what logarithms of counts reach."""
    return values.size > 0 and bool(values.max() < LOG_CEILING)


def normalised(block: csr_matrix) -> str | None:
    """What says that whole rows hold normalised values, or their logarithms; None if nothing does."""
    if looks_logged(block.data):
        logs = csr_matrix((np.expm1(block.data.astype(np.float64)), block.indices, block.indptr), shape=block.shape)
        if _same_sums(logs):
            return "logarithms of normalised values, they sum up alike in all cells"
    return "normalised values, they sum up alike in all cells" if _same_sums(block) else None


def _same_sums(block: csr_matrix) -> bool:
    sums = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    sums = sums[sums > 0]
    return len(sums) >= FEW_CELLS and bool(sums.std() < SAME_SUMS * sums.mean())


def same_sums_note(totals: Floats) -> list[str]:
    """What to note where the counts of all cells sum up alike, over all genes: raw ones do not."""
    sums = totals[totals > 0]
    if len(sums) < FEW_CELLS or sums.std() >= SAME_SUMS * sums.mean():
        return []
    return [
        f"the counts of all cells sum up alike, to about {sums.mean():,.0f}: values that were drawn down to that "
        "number, or normalised and then rounded; the latter are no counts"
    ]


def _as_named(values: Array, round_counts: bool) -> Bools:
    """Which values have the fault that `fault` names."""
    kinds = [~np.isfinite(values), values < 0]
    if not round_counts:
        kinds.append(np.abs(values - np.rint(values)) > ROUNDING * np.maximum(values, 1))
    return next(kind for kind in [*kinds, values.astype(np.float64) > LARGEST] if kind.any())


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
    may_round = source.rounding.allowed
    problem = fault(block.data, may_round)
    if problem is None and may_round and has_fractions(block.data) and (found := normalised(block)):
        raise BadInput(
            f"{source.matrix.name}: {found}; `round_counts=True` rounds corrected counts, not these: expected raw "
            f"counts{_another(source)}"
        )
    if problem is not None:
        values = block.data
        at = int(np.flatnonzero(_as_named(values, may_round))[0])
        cell = source.obs.index[rows[np.searchsorted(block.indptr, at, side="right") - 1]]
        named = source.var.index[source.features == block.indices[at]]
        gene = f"gene {str(named[0])!r}" if len(named) else f"feature {block.indices[at]}"
        rounding_mends = not may_round and fault(values, round_counts=True) is None
        rounds = f"; {ROUND}" if rounding_mends and not looks_logged(values) else ""
        raise BadInput(
            f"{source.matrix.name}: {problem}, the first in cell {str(cell)!r}, {gene}: {values[at]:.6g}; "
            f"expected raw counts (whole numbers, 0 or more){_another(source)}{rounds}"
        )
    block.data = _rounded(block.data, source.rounding).astype(np.uint32)
    block.eliminate_zeros()
    block.sort_indices()
    return block


def _another(source: Source) -> str:
    return f"; name another matrix by {source.choices}" if source.choices else ""


def _rounded(values: Array, rounding: Rounding) -> Array:
    """Values as whole numbers, the changes counted."""
    if values.dtype.kind != "f":
        return values
    whole = np.rint(values)
    changed = values != whole
    if not changed.any():
        return values
    rounding.add(
        len(values), int(changed.sum()), float(np.abs(values[changed].astype(np.float64) - whole[changed]).max())
    )
    return whole
