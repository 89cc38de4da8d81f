"""SOMA experiments as sources of ingest: read run by run, converted nowhere."""

import numpy as np
from anndata.utils import make_index_unique

from data_loaders.errors import BadInput
from data_loaders.reading.soma_store import SomaStore, sound

RUNS_A_BLOCK = 2  # as many as are decoded at once


def open_soma(path, layer, raw, measurement, obs_filter):
    """The parts of a `sources.Source` from a SOMA experiment, a path or URI; see `reading.soma_store.SomaStore`."""
    if raw:
        raise BadInput(f"{path}: --raw chooses a matrix of an AnnData; in a SOMA experiment name a layer by --layer")
    store = SomaStore(str(path), measurement=measurement, layer=layer, obs_filter=obs_filter)
    try:
        with sound(f"{path}: obs and var"):
            obs, var = store.obs_table(), store.var()
    except BadInput:
        store.close()
        raise
    notes = []
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = make_index_unique(obs.index)
    if obs_filter is not None:
        notes.append(f"{path}: {len(obs):,} of {store.n_all:,} cells pass the obs filter {obs_filter!r}")
    return {
        "obs": obs,
        "var": var,
        "matrix": SomaMatrix(store),
        "features": np.arange(len(var)),
        "counts_from": store.counts_from,
        "file": store,
        "notes": notes,
        "choices": "--layer NAME",
    }


class SomaMatrix:
    """An X layer as a matrix of `data_loaders.sources.matrices`."""

    def __init__(self, store):
        self.name = f"{store.name}: {store.counts_from}"
        self._reader = store.readers["rna"]
        self.shape = len(self._reader), self._reader.n_features
        self.n_values = self._reader.n_values

    def blocks(self):
        """Yield `(rows, csr)`, whole runs of the store's tiles."""
        edges = self._reader.run_edges()[::RUNS_A_BLOCK]
        for start, stop in zip(edges, [*edges[1:], len(self._reader)], strict=True):
            rows = np.arange(start, stop)
            yield rows, self._reader.read(rows).to_scipy()
