"""TileDB-SOMA experiments read in place: no conversion, cells in SOMA's row order."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import DAMAGED, BadInput, nearest
from data_loaders.features.gene_names import name_features
from data_loaders.obs_filter import ObsFilter
from data_loaders.parallel import run_all
from data_loaders.reading.buffers import Buffers
from data_loaders.reading.rows import SparseRows, offsets
from data_loaders.reading.soma_words import of_object, one_line
from data_loaders.reading.store import Column
from data_loaders.types import Array, Ints, PathLike

CONFIG = {
    "soma.init_buffer_bytes": 1 << 25,  # a column of a result: 2,048 rows of 2,048 counts; more comes in several tables
    "sm.mem.total_budget": 300_000_000,  # of one query; a tenth of TileDB's own limit, at the same speed
}
RUNS_AT_ONCE = 2  # TileDB has threads of its own: while it decodes one run, another is sorted into rows
RUNS_KEPT = 2
SHOWN_PARTS = 8  # of obs, whose values a message may name
RUN_ROWS = 2048  # rows of one query: the extent of SOMA's tiles, which are decoded whole


def is_soma(path: PathLike) -> bool:
    """Whether a local folder is a TileDB group."""
    return Path(str(path)).is_dir() and (Path(str(path)) / "__group").is_dir()


@contextmanager
def sound(name: str) -> Iterator[None]:
    """Turn what tiledbsoma raises on damaged files into `BadInput`: its own errors, plain ones, and those of Arrow."""
    import pyarrow
    import tiledbsoma

    try:
        yield
    except BadInput:
        raise
    except (
        tiledbsoma.SOMAError, pyarrow.ArrowException, RuntimeError, LookupError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise BadInput(f"{name} cannot be read, {DAMAGED} ({one_line(error)})") from error


class SomaStore:
    """One measurement of a SOMA experiment.

    Parameters
    ----------
    uri : str
    measurement : str, optional
        The only one, or `RNA`, when left out.
    layer : str, optional
        The X layer with the counts; the only one, or `data`, when left out.
    obs_filter : str, optional
        An expression over obs, such as `tissue == "lung"`, see `data_loaders.obs_filter`; only these cells are in the
        atlas.
    obs_columns : sequence of str, optional
        The obs columns of the atlas; all when left out. A column is read when it is asked for.
    config : dict, optional
        TileDB configuration, such as credentials of an object store.
    var_names : str, optional
        The var column with the gene names; by the rule of `features.gene_names` when left out.

    Raises
    ------
    BadInput
        When tiledbsoma is not installed, the experiment, a measurement, layer or column does not exist, the filter is
        not one, or no cell passes it.
    """

    def __init__(
        self,
        uri: PathLike,
        *,
        measurement: str | None = None,
        layer: str | None = None,
        obs_filter: str | None = None,
        obs_columns: Sequence[str] | None = None,
        config: dict[str, Any] | None = None,
        var_names: str | None = None,
    ) -> None:
        self.name, self._var_names = str(uri), var_names
        self.notes: list[str] = []
        try:
            import tiledbsoma
        except ImportError as error:
            raise BadInput(f"{uri}: reading SOMA needs tiledbsoma; install the extra `soma`") from error
        context = tiledbsoma.SOMATileDBContext(tiledb_config=CONFIG | (config or {}))
        try:
            self._experiment = tiledbsoma.Experiment.open(self.name, context=context)
        except (tiledbsoma.DoesNotExistError, tiledbsoma.SOMAError, TypeError) as error:
            raise BadInput(f"{uri}: {of_object(self.name, context, error)}") from error
        self._ids: Ints | None = None  # of the cells that pass a filter, sorted
        try:
            with sound(self.name):
                self._open(measurement, layer, obs_filter, obs_columns)
        except BaseException:
            self.close()
            raise

    is_shuffled = False

    def _open(
        self, measurement: str | None, layer: str | None, obs_filter: str | None, obs_columns: Sequence[str] | None
    ) -> None:
        """Choose what is read and see how large it is."""
        uri = self.name
        ms = self._experiment.ms
        measurement = _choose(f"{uri}: measurement", measurement, list(ms), "RNA")
        self._measurement = ms[measurement]
        self.layers = list(self._measurement.X)
        layer = _choose(f"{uri}: X layer of measurement {measurement!r}", layer, self.layers, "data")
        self.has_other_layers = len(self.layers) > 1
        known = [name for name in self._experiment.obs.schema.names if name != "soma_joinid"]
        for name in obs_columns or ():
            if name not in known:
                raise BadInput(f"{uri}: no obs column {name!r}; {nearest(name, known)}")
        self.obs_columns = list(obs_columns or known)
        with sound(f"{uri}: obs"):
            ids = self._passing(obs_filter)
        self._order = np.argsort(ids, kind="stable")
        ids = ids[self._order]
        self.n_cells = len(ids)
        self.n_all = self._experiment.obs.count
        self.counts_from = f"ms/{measurement}/X/{layer}"
        name = f"{uri}: {self.counts_from}"
        with sound(name):
            var_ids = self._measurement.var.read(column_names=["soma_joinid"]).concat()["soma_joinid"].to_numpy()
            matrix = self._measurement.X[layer]
            self.readers = {"rna": SomaReader(matrix, ids, np.sort(var_ids), self.n_all, name)}

    def obs(self, column: str) -> Column:
        """Values of an obs column: array, or pandas Categorical."""
        values: Column = self._read_obs([column])[column].iloc[self._order].array
        return values

    def obs_table(self) -> pd.DataFrame:
        """All obs columns of the atlas as a table, its index the names of the cells."""
        table = self._read_obs(self.obs_columns).iloc[self._order]
        table.index = self.obs_names().astype(str)
        return table.drop(columns="obs_id", errors="ignore")

    def obs_names(self) -> Array:
        """Names of the cells, where obs has them as `obs_id`, else their join ids."""
        names = self._experiment.obs.schema.names
        return np.asarray(self._read_obs(["obs_id" if "obs_id" in names else "soma_joinid"]).iloc[self._order, 0])

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""
        return str(self._experiment.obs.schema.field(column).type).startswith("dictionary")

    def var(self) -> pd.DataFrame:
        """The var table in the order of the join ids, its index the gene names, see `features.gene_names`."""
        named = name_features(self.name, self.var_table(), self._var_names)
        self.notes += [note for note in named.notes if note not in self.notes]
        return named.var

    def var_table(self) -> pd.DataFrame:
        """The var table in the order of the join ids as it is stored, its index `var_id` or else the join ids."""
        with sound(f"{self.name}: var"):
            var = self._measurement.var.read().concat().to_pandas().sort_values("soma_joinid")
        index = "var_id" if "var_id" in var else "soma_joinid"
        names = var.pop(index)
        var = var.drop(columns="soma_joinid", errors="ignore").set_index(names.astype(str).to_numpy())
        var.attrs["index"] = index
        return var

    def features(self, modality: str) -> None:
        """None: a measurement is read as one modality, whose features are `var`."""

    def uns(self, key: str) -> Any:
        """An entry of the measurement's uns that is text, or None."""
        uns = self._measurement.get("uns")
        return None if uns is None else uns.metadata.get(key)

    def close(self) -> None:
        """Close the experiment."""
        self._experiment.close()

    def _read_obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Obs columns of the cells that pass the filter, pandas DataFrame, in the order SOMA gives them."""
        with sound(f"{self.name}: obs"):
            return self._query(columns)

    def _passing(self, obs_filter: str | None) -> Ints:
        """Join ids of the cells that pass the filter, in the order SOMA gives them.

        The filter is evaluated here, part by part, and not by TileDB, so that it means what it means for other files.
        """
        if obs_filter is None:
            return np.asarray(self._query(["soma_joinid"])["soma_joinid"])
        expression = ObsFilter(obs_filter, self.name)
        expression.check_columns(list(self._experiment.obs.schema.names))
        columns = list(dict.fromkeys(["soma_joinid", *expression.columns]))
        passing: list[Ints] = []
        parts: list[pd.DataFrame] = []
        for table in self._experiment.obs.read(column_names=columns):
            part = table.to_pandas()
            passes = expression.passes(part)
            passing.append(part["soma_joinid"].to_numpy()[passes])
            parts.append(part if not passes.any() and len(parts) < SHOWN_PARTS else part.iloc[:0])
        ids = np.concatenate(passing or [np.empty(0, np.int64)])
        if len(ids) == 0:
            raise expression.none_passes(pd.concat(parts) if parts else None)
        self._ids = np.sort(ids)
        return ids

    def _query(self, columns: Sequence[str]) -> pd.DataFrame:
        if self._ids is None:
            return self._experiment.obs.read(column_names=columns).concat().to_pandas()
        import pyarrow

        parts = []
        for table in self._experiment.obs.read(column_names=list(dict.fromkeys(["soma_joinid", *columns]))):
            ids = table["soma_joinid"].to_numpy()
            places = np.searchsorted(self._ids, ids)
            passes = self._ids[np.minimum(places, len(self._ids) - 1)] == ids
            parts.append(table.filter(pyarrow.array(passes)).select(list(columns)))
        return pyarrow.concat_tables(parts).to_pandas()


class SomaReader:
    """Rows of a SOMA sparse array.

    Attributes
    ----------
    block_rows : int
        Neighbouring rows that are cheap to read together.
    """

    block_rows: int | None = RUN_ROWS

    def __init__(self, matrix: Any, ids: Ints, var_ids: Ints, n_all: int, name: str) -> None:
        self.name, self._matrix, self._ids, self._buffers = name, matrix, ids, Buffers()
        self._kept: dict[int, SparseRows] = {}  # number of a run -> SparseRows
        self._run_buffers = Buffers(keep=32)
        self.n_features = len(var_ids)
        self._dtype = matrix.schema.field("soma_data").type.to_pandas_dtype()
        self._index_dtype = np.uint16 if self.n_features <= 1 << 16 else np.uint32
        self._new_columns: Ints = np.zeros(int(var_ids.max(initial=-1)) + 1, self._index_dtype)
        self._new_columns[var_ids] = np.arange(len(var_ids))
        self.n_values = matrix.nnz  # of all cells, those that the filter leaves out too
        value_bytes = np.dtype(self._dtype).itemsize + np.dtype(self._index_dtype).itemsize
        self.row_bytes = self.n_values / max(n_all, 1) * value_bytes

    def __len__(self) -> int:
        return len(self._ids)

    def run_edges(self) -> list[int]:
        """First row of every run, a list: rows up to the next one are read by one query."""
        return [0, *(np.flatnonzero(np.diff(self._ids // RUN_ROWS)) + 1).tolist()]

    def read(self, rows: Ints) -> SparseRows:
        """Read rows, int64 (B,), any order."""
        from data_loaders.reading.kernels import scatter_pieces

        unique, back = np.unique(rows, return_inverse=True)
        cuts = [0, *(np.flatnonzero(np.diff(self._ids[unique] // RUN_ROWS)) + 1).tolist(), len(unique)]
        runs = [unique[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]
        pieces: list[Any] = [None] * len(runs)  # filled by threads

        def load(number: int) -> None:
            pieces[number] = self._run(runs[number])

        run_all(load, [(number,) for number in range(len(runs))], RUNS_AT_ONCE)
        lengths = np.concatenate([np.diff(p.indptr)[at] for p, at in pieces] or [np.empty(0, np.int64)])
        indptr = offsets(lengths[back])
        data, indices = (self._buffers.empty(indptr[-1], dtype) for dtype in (self._dtype, self._index_dtype))
        order = np.argsort(back, kind="stable")
        bounds = np.searchsorted(back[order], cuts)
        for number, (piece, at) in enumerate(pieces):
            asked = order[bounds[number] : bounds[number + 1]]
            local = at[back[asked] - cuts[number]]
            where = piece.indptr[local], piece.indptr[local + 1], indptr[asked]
            if len(piece.data):
                scatter_pieces(piece.data, 0, *where, data, 0)
                scatter_pieces(piece.indices, 0, *where, indices, 0)
        return SparseRows(data, indices, indptr, self.n_features)

    def _run(self, rows: Ints) -> tuple[SparseRows, Ints]:
        """Sorted rows of one run: a SparseRows that holds them, and where they are in it."""
        number = self._ids[rows[0]] // RUN_ROWS
        first, stop = np.searchsorted(self._ids, [number * RUN_ROWS, (number + 1) * RUN_ROWS])
        piece = self._kept.pop(number, None)
        if piece is None and len(rows) < (stop - first) / 4:
            return self._read_run(self._ids[rows]), np.arange(len(rows))
        if piece is None:
            piece = self._read_run(self._ids[first:stop])
            if len(rows) < stop - first:  # the window ends in this run, and the next one begins in it
                self._kept[number] = piece
                while len(self._kept) > RUNS_KEPT:
                    self._kept.pop(next(iter(self._kept)), None)
        return piece, rows - first

    def _read_run(self, ids: Ints) -> SparseRows:
        """Rows of sorted join ids that lie near each other: SparseRows."""
        from data_loaders.reading.kernels import count_triples, place_triples

        first, last = int(ids[0]), int(ids[-1])
        coordinates = slice(first, last) if last - first + 1 == len(ids) else ids
        try:
            tables = self._matrix.read(coords=(coordinates, slice(None))).tables()
            parts = [
                [part[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data")]
                for table in tables
                for part in table.to_batches()
            ]
        except Exception as error:  # tiledbsoma raises plain RuntimeErrors for damaged files
            raise BadInput(f"{self.name}: rows {first} to {last} cannot be read ({one_line(error)})") from error
        positions = np.zeros(last - first + 1, np.int64)
        positions[ids - first] = np.arange(len(ids))
        lengths = np.zeros(len(ids), np.int64)
        for rows, _, _ in parts:
            count_triples(rows, first, positions, lengths)
        indptr = offsets(lengths)
        data, indices = (self._run_buffers.empty(indptr[-1], dtype) for dtype in (self._dtype, self._index_dtype))
        ends = indptr[:-1].copy()
        for rows, columns, values in parts:
            place_triples(rows, columns, values, first, positions, self._new_columns, ends, indices, data)
        return SparseRows(data, indices, indptr, self.n_features)


def _choose(what: str, name: str | None, known: list[str], usual: str) -> str:
    """`name` if it exists, or the only or usual one."""
    if name is None:
        if len(known) == 1:
            return known[0]
        if usual in known:
            return usual
        raise BadInput(f"{what} not given; expected one of {', '.join(known) or 'none: there is none'}")
    if name not in known:
        raise BadInput(f"{what} {name!r} does not exist; {nearest(name, known)}")
    return name
