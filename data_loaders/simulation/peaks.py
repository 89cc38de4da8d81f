"""Peaks of accessible chromatin for simulated cells: open or not, by type and by the programmes of the cell's genes.

    a_p ~ Bernoulli(sigmoid(base_p + marker_p[type] + loadings_p z))

with the cell's own programme scores z, so that peaks and genes of a cell go together.
"""

from typing import TypedDict

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from data_loaders.seeds import Simulation, generator
from data_loaders.simulation.bisection import bisect
from data_loaders.types import Floats, Ints

STRIP = 64  # cells drawn together: their dense probabilities stay small


class PeakTruth(TypedDict):
    """The parameters of the peaks."""

    type_logit: Floats  # float32 (P, types)
    programme_loadings: Floats  # float32 (P, programmes)


def make_peak_truth(peaks: int, types: int, programmes: int, density: float, seed: int) -> PeakTruth:
    """Draw the parameters.

    `density` is the expected share of open peaks over types in equal parts.
    """
    rng = generator(seed, Simulation.PEAK_TRUTH)
    logit = rng.normal(0.0, 1.5, (peaks, 1))
    logit = logit + rng.normal(0.0, 2.0, (peaks, types)) * (rng.random((peaks, types)) < 0.1)
    loadings = rng.normal(0.0, 0.4, (peaks, programmes)) * (rng.random((peaks, programmes)) < 0.2)
    spread = rng.standard_normal((32, programmes)) @ loadings.T

    def is_too_low(base: float) -> bool:  # on sample cells of every type
        return bool(np.mean([_open(logit[:, k] + base + spread).mean() for k in range(types)]) < density)

    return {
        "type_logit": (logit + bisect(-30.0, 30.0, is_too_low)).astype(np.float32),
        "programme_loadings": loadings.astype(np.float32),
    }


def peak_table(truth: PeakTruth) -> pd.DataFrame:
    """The table of the peaks, with their parameters."""
    columns = {f"logit_type_{k}": column for k, column in enumerate(truth["type_logit"].T)}
    return pd.DataFrame(columns, index=[f"peak_{p:05d}" for p in range(len(truth["type_logit"]))])


def draw_peaks(truth: PeakTruth, type_of: Ints, scores: Floats, seed: int, number: int) -> csr_matrix:
    """Draw the open peaks of one block of cells, CSR (n, P) of ones, int32.

    Parameters
    ----------
    truth : PeakTruth
    type_of : int (n,)
    scores : float (n, programmes)
        The cells' programme scores.
    seed, number : int
        Atlas seed and number of the block.
    """
    rng = generator(seed, Simulation.PEAKS, number)
    columns = []
    for start in range(0, len(type_of), STRIP):
        rows = slice(start, start + STRIP)
        share = _open(truth["type_logit"].T[type_of[rows]] + scores[rows] @ truth["programme_loadings"].T)
        is_open = rng.random(share.shape, dtype=np.float32) < share
        nothing = ~is_open.any(axis=1)  # a row without counts would be a cell that was not measured
        is_open[nothing, share.argmax(axis=1)[nothing]] = True
        columns += [np.flatnonzero(row) for row in is_open]
    indptr = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    indices = np.concatenate(columns)
    return csr_matrix(
        (np.ones(len(indices), np.int32), indices, indptr), shape=(len(columns), len(truth["type_logit"]))
    )


def _open(logit: Floats) -> Floats:
    """Probability of being open."""
    return 1.0 / (1.0 + np.exp(-logit))
