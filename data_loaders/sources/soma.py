"""SOMA experiments as sources of ingest: read run by run, converted nowhere."""

from collections.abc import Iterator

import numpy as np
from anndata.utils import make_index_unique

from data_loaders.errors import BadInput
from data_loaders.reading.soma_store import SomaStore, is_soma, sound
from data_loaders.sources.source import Block, Options, Source

RUNS_A_BLOCK = 2  # as many as are decoded at once


def recognises(path: str) -> bool:
    """Whether a path is a SOMA experiment on a disk or at an address."""
    return is_soma(path)


def open(path: str, options: Options) -> Source:
    """Open a SOMA experiment, a path or URI; see `reading.soma_store.SomaStore`."""
    obs_filter = options.obs_filter
    store = SomaStore(
        path,
        organism=options.organism,
        measurement=options.measurement,
        layer=options.layer,
        raw=options.raw,
        obs_filter=obs_filter,
        checked=False,  # blocks are checked when they become counts
        round_counts=options.round_counts,
    )
    try:
        with sound(f"{path}: obs and var"):
            obs, var = store.obs_table(), store.var_table()
    except BadInput:
        store.close()
        raise
    notes = [note for note in store.notes if "`is_primary_data`" in note]
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = make_index_unique(obs.index)
    if obs_filter is not None:
        notes.append(f"{path}: {len(obs):,} of {store.n_all:,} cells pass the obs filter {obs_filter!r}")
    source = Source(path, obs, var, SomaMatrix(store), np.arange(len(var)), store.counts_from, store, notes)
    source.others = store.others
    source.n_filtered = store.n_all - len(obs)
    return source


class SomaMatrix:
    """An X layer as a matrix of `data_loaders.sources.matrices`."""

    def __init__(self, store: SomaStore) -> None:
        self.name = f"{store.name}: {store.counts_from}"
        self._reader = store.readers["rna"]
        self.shape = len(self._reader), self._reader.n_features
        self.n_values = self._reader.n_values

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`, whole runs of the store's tiles."""
        edges = self._reader.run_edges()[::RUNS_A_BLOCK]
        for start, stop in zip(edges, [*edges[1:], len(self._reader)], strict=True):
            rows = np.arange(start, stop)
            yield rows, self._reader.read(rows).to_scipy()
