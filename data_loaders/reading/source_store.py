"""Sources of `ingest` whose cells lie in rows, read in place: 10x HDF5 files, MuData, and AnnData of old versions.

What `data_loaders.sources` opens says which cells, genes and matrix a file has; the rows of the matrix are read by the
readers of stores. So a file opened in place shows what `ingest` would write of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.features.feature_types import left_out
from data_loaders.reading.filtered_store import ChosenRows
from data_loaders.reading.reader import CsrReader, DenseReader
from data_loaders.reading.store import Column, Reader
from data_loaders.reading.value_checks import Naming, check_first
from data_loaders.sources import mudata
from data_loaders.sources.matrices import CompressedMatrix, DenseMatrix
from data_loaders.sources.open import open_source
from data_loaders.sources.source import Options, Source
from data_loaders.types import Array

MAIN = "rna"


def open_one_source(path: str, options: Options, var_names: str | None) -> "SourceStore":
    """A source as a store of one modality, `rna`.

    Raises
    ------
    BadInput
        When it cannot be used, or its cells do not lie in rows.
    """
    return SourceStore(path, {MAIN: open_source(path, options, var_names=var_names)})


def open_mudata(path: str, options: Options, var_names: str | None) -> "SourceStore":
    """All modalities of an h5mu file; `options` and `var_names` are of the main one, `rna` where it is there.

    Raises
    ------
    BadInput
        When one of them cannot be used, or their cells differ.
    """
    names = mudata.h5mu_modalities(path)
    names.sort(key=lambda name: name != MAIN)
    sources: dict[str, Source] = {}
    try:
        for name in names:
            is_main = name == names[0]
            sources[name] = open_source(
                f"{path}:{name}",
                options if is_main else Options(),
                modality=MAIN if is_main else name,
                var_names=var_names if is_main else None,
            )
        return SourceStore(path, sources)
    except BadInput as error:
        for source in sources.values():
            source.close()
        if len(names) > 1:
            raise BadInput(f"{error}; one modality alone is opened as {path}:NAME") from error
        raise


class SourceStore:
    """A store of sources, one for each modality of the same cells; attributes as in `reading.store.Store`.

    Parameters
    ----------
    name : str
        Path, for messages.
    sources : dict
        Modality → open source, the main one first. They stay open as long as the store.

    Raises
    ------
    BadInput
        When a matrix cannot be read by rows or does not begin with counts, or a modality has other cells.
    """

    is_shuffled = has_size_factor = False

    def __init__(self, name: str, sources: Mapping[str, Source]) -> None:
        self.name, self._sources = name, sources
        main = next(iter(sources))
        self._obs = sources[main].obs
        self.n_cells = len(self._obs)
        self.obs_columns = [str(column) for column in self._obs]
        self.counts_from = sources[main].counts_from
        self.notes = [note for source in sources.values() for note in source.notes]
        self.notes += [
            f"{name}: {left_out(source.left_out, [modality])}"
            for modality, source in sources.items()
            if source.left_out
        ]
        if self.counts_from not in ("X", "counts"):
            self.notes.append(f"{name}: the counts are taken from {self.counts_from}")
        self.readers: dict[str, Reader] = {}
        for modality, source in sources.items():
            reader = _reader(source)
            check_first(reader)
            self.readers[modality] = reader if modality == main else self._aligned(modality, source, reader)

    def _aligned(self, modality: str, source: Source, reader: Reader) -> Reader:
        """The reader of another modality, its cells in the order of the main one."""
        rows = source.obs.index.get_indexer(self._obs.index)
        if len(source.obs) != self.n_cells or (rows < 0).any():
            shared = int((rows >= 0).sum())
            raise BadInput(
                f"{self.name}: modality {modality!r} has {len(source.obs):,} cells, of which {shared:,} are among the "
                f"{self.n_cells:,} of {next(iter(self._sources))!r}; expected the same cells; "
                "`ingest(cells='shared')` makes a store of those that all have"
            )
        return reader if np.array_equal(rows, np.arange(len(rows))) else ChosenRows(reader, rows)

    def obs(self, column: str) -> Column:
        """Values of an obs column: array, or pandas Categorical."""
        return self._obs[column].array

    def obs_names(self) -> Array:
        """Names of the cells (n_cells,)."""
        return np.asarray(self._obs.index)

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""
        return isinstance(self._obs[column].dtype, pd.CategoricalDtype)

    def var(self) -> pd.DataFrame:
        """The table of the genes, indexed by name."""
        return next(iter(self._sources.values())).var

    def features(self, modality: str) -> pd.DataFrame | None:
        """The table of the features of another modality."""
        return self._sources[modality].var if modality in self._sources else None

    def uns(self, key: str) -> Any:
        """None: what sources have beside cells and genes is not read."""


def _reader(source: Source) -> CsrReader | DenseReader:
    """The reader of the rows of a source, its values checked."""
    matrix = source.matrix
    named = Naming(lambda: np.asarray(source.obs.index), lambda: np.asarray(source.var.index), source.choices)
    everything = np.array_equal(source.features, np.arange(matrix.shape[1]))
    kept = None if everything else source.features
    if isinstance(matrix, CompressedMatrix) and matrix.by_row:
        return CsrReader(matrix.arrays, matrix.shape, None, matrix.name, named, kept)
    if isinstance(matrix, DenseMatrix):
        return DenseReader(matrix.arrays["values"], None, matrix.name, named, kept)
    raise BadInput(f"{matrix.name}: its cells cannot be read one by one; `ingest()` makes a store of it")
