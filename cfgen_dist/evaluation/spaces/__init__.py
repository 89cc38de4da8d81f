"""Where cells are compared: components of log-normalised counts, or of TF-IDF for accessibility.

A space is fitted by sums over the test cells, and projects any cells.
"""

from typing import Protocol

from scipy import sparse

from data_loaders.statistics.sums import S
from data_loaders.types import Floats


class AnySpace(Protocol):
    """What comparing needs of a space: `Components` or `TfIdfSpace`."""

    @property
    def loadings(self) -> Floats:
        """(features, C)."""

    def project(self, counts: sparse.csr_matrix, *, centred: bool = True) -> Floats:
        """Components (n, C) of raw counts (n, features); the mean of the real cells taken off if centred."""


class PassOver(Protocol):
    """A pass over all cells that a space is fitted to."""

    def __call__(self, sums: S, number: int = 0, /) -> S:
        """Add all cells to empty sums and return them; of several passes with one kind of sums each has a number."""
