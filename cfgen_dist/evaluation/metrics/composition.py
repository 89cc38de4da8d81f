"""The composition of a generated store: has it as many cells of each type as real cells have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cfgen_dist.evaluation.cellset import CellSet


def composition(real: CellSet, scored: CellSet) -> float:
    """Total variation between the shares of types in the real test cells and in the store that was scored.

    Half of the summed absolute differences: the share of cells that would need another type. Everything else is
    measured on cells that were drawn to the composition of the test cells; this is not. See `CellSet.in_store`.

    Parameters
    ----------
    real, scored : CellSet
    """
    first, second = (cells.in_store / max(cells.in_store.sum(), 1) for cells in (real, scored))
    return float(np.abs(first - second).sum() / 2)
