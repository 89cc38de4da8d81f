"""TileDB-SOMA experiments read in place: no conversion, cells in SOMA's row order."""

import gc
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import DAMAGED, BadInput, nearest
from data_loaders.features.gene_names import name_features
from data_loaders.obs_filter import ObsFilter
from data_loaders.reading import soma_census as census
from data_loaders.reading.soma_places import FIRST_ROWS, RAW, SomaPlace, is_dense, place_of_counts, places_of
from data_loaders.reading.soma_reader import SomaReader
from data_loaders.reading.soma_words import one_line
from data_loaders.reading.store import Column
from data_loaders.reading.value_checks import Naming, check_first
from data_loaders.sources.which import in_words
from data_loaders.storage import is_remote, place, shown
from data_loaders.storage.address import on_disk
from data_loaders.storage.opened import spot_of
from data_loaders.types import Array, Ints, PathLike

CONFIG: dict[str, str | float] = {
    "soma.init_buffer_bytes": 1 << 25,  # a column of a result: 2,048 rows of 2,048 counts; more comes in several tables
    "sm.mem.total_budget": 300_000_000,  # of one query; a tenth of TileDB's own limit, at the same speed
}
GROUP = {"__group", "__tiledb_group.tdb"}  # in the folder of one
SHOWN_PARTS = 8  # of obs, whose values a message may name

_opened: "weakref.WeakSet[SomaStore]" = weakref.WeakSet()
_of_parent: list["SomaStore"] = []


def _keep_in_child() -> None:
    """Let a forked child free nothing of TileDB that it was born with.

    A context that is freed waits for its threads, of which a forked child has none: it waits for ever, or crashes.
    Freed are stores that nobody holds any more, and what the garbage collector finds.
    """
    if "tiledbsoma" in sys.modules:
        _of_parent.extend(_opened)
        gc.freeze()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_child)


def is_soma(path: PathLike, storage: Mapping[str, Any] | None = None) -> bool:
    """Whether a local folder, or an address that can be listed, is a TileDB group."""
    if is_remote(path):
        return census.is_public(path) or _is_remote_group(path, storage)
    return (on_disk(path) / "__group").is_dir()


def _is_remote_group(path: PathLike, storage: Mapping[str, Any] | None) -> bool:
    try:
        found = place(path, storage)
    except BadInput:
        return str(path).startswith("tiledb:/")
    return bool(GROUP & set(found.names())) if spot_of(path).service != "http" else False


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
        An experiment, or a CELLxGENE Census (its root or `census_data`).
    organism : str, optional
        Of a Census, such as "homo_sapiens"; the only one when left out.
    measurement : str, optional
        The only one beside `raw`, or `RNA`, when left out.
    layer : str, optional
        The X layer with the counts. When left out it is searched as in an AnnData: the first of `data`, `counts` and
        those of the measurement `raw` that holds whole numbers, or else the only other layer that does.
    raw : bool
        Take the counts of the measurement `raw`.
    obs_filter : str, optional
        An expression over obs, such as `tissue == "lung"`, see `data_loaders.obs_filter`; only these cells are in the
        atlas. Of a Census only primary cells are, unless the filter names `is_primary_data`.
    obs_columns : sequence of str, optional
        The obs columns of the atlas; all when left out. A column is read when it is asked for.
    config : dict, optional
        TileDB configuration, such as credentials of an object store; also the options of other stores (`region`,
        `endpoint`, `skip_signature`, ...). Environment variables such as AWS_ENDPOINT_URL count.
    var_names : str, optional
        The var column with the gene names; by the rule of `features.gene_names` when left out.
    checked : bool
        Refuse values that are no counts when they are read.
    round_counts : bool
        Take the only matrix of numbers near to counts where there are no counts.

    Raises
    ------
    BadInput
        When tiledbsoma is not installed, the experiment, a measurement, layer or column does not exist, the filter is
        not one, no cell passes it, or there are no counts.

    Attributes
    ----------
    counts_from : str
        The matrix of the counts, such as "ms/RNA/X/data".
    others : list of str
        The options that name another matrix of the experiment, see `sources.source.Source`.
    """

    def __init__(
        self,
        uri: PathLike,
        *,
        organism: str | None = None,
        measurement: str | None = None,
        layer: str | None = None,
        raw: bool = False,
        obs_filter: str | None = None,
        obs_columns: Sequence[str] | None = None,
        config: dict[str, Any] | None = None,
        var_names: str | None = None,
        checked: bool = True,
        round_counts: bool = False,
    ) -> None:
        self.name, self._var_names = str(uri), var_names
        uri = shown(uri)
        self.notes: list[str] = []
        if raw and measurement not in (None, RAW):
            raise BadInput(f"{uri}: `measurement={measurement!r}` and `raw=True` together; expected one of them")
        measurement = RAW if raw else measurement
        try:
            import tiledbsoma
        except ImportError as error:
            raise BadInput(f"{uri}: reading SOMA needs tiledbsoma; install the extra `soma`") from error
        settings: dict[str, str | float] = {**CONFIG, **census.settings(self.name, config)}
        context = tiledbsoma.SOMATileDBContext(tiledb_config=settings)
        self._experiment, self._context = census.open_experiment(self.name, organism, context), context
        _opened.add(self)
        self._ids: Ints | None = None  # of the cells that pass a filter, sorted
        try:
            with sound(self.name):
                ids = self._open(measurement, layer, obs_filter, obs_columns)
                self._open_matrix(ids, layer, measurement is None, checked, round_counts)
        except BaseException:
            self.close()
            raise

    is_shuffled = has_size_factor = False

    def _open(
        self, measurement: str | None, layer: str | None, obs_filter: str | None, obs_columns: Sequence[str] | None
    ) -> Ints:
        """See what is there; the join ids of the cells, sorted."""
        uri = self.name
        known = [name for name in self._experiment.obs.schema.names if name != "soma_joinid"]
        for name in obs_columns or ():
            if name not in known:
                raise BadInput(f"{uri}: no obs column {name!r}; {nearest(name, known)}")
        self.obs_columns = list(obs_columns or known)
        measurements = list(self._experiment.ms)
        usual = [name for name in measurements if name != RAW] or measurements
        self._found = _choose(f"{uri}: measurement", measurement, usual if measurement is None else measurements, "RNA")
        if layer is not None:
            layers = list(self._experiment.ms[self._found].X)
            _choose(f"{uri}: X layer of measurement {self._found!r}", layer, layers, "data")
        with sound(f"{uri}: obs"):
            ids = self._passing(obs_filter)
        self._order = np.argsort(ids, kind="stable")
        self.n_cells, self.n_all = len(ids), self._experiment.obs.count
        return ids[self._order]

    def _is_census(self) -> bool:
        """Whether the experiment is one of a CELLxGENE Census."""
        measurement = self._experiment.ms[self._found]
        return census.PRESENCE in measurement and census.PRIMARY in self._experiment.obs.schema.names

    def _open_matrix(self, ids: Ints, layer: str | None, or_raw: bool, checked: bool, round_counts: bool) -> None:
        """Choose the matrix and open its reader."""
        uri, ms, place = self.name, self._experiment.ms, SomaPlace(self._found, layer or "")
        if layer is None:
            place = place_of_counts(uri, ms, self._found, ids[:FIRST_ROWS], or_raw=or_raw, round_counts=round_counts)
            if place != (self._found, "data") and len(places_of(ms)) > 1:
                self.notes.append(f"{uri}: the counts are taken from {place.label}")
        self.counts_from, self._measurement = place.label, ms[place.measurement]
        others = [other for other in places_of(ms) if other != place]
        same = [other for other in others if other.measurement == place.measurement]
        self.others = [*(["layer"] if same else []), *(["measurement"] if len(others) > len(same) else [])]
        name = f"{uri}: {self.counts_from}"
        with sound(name):
            var_ids = self._measurement.var.read(column_names=["soma_joinid"]).concat()["soma_joinid"].to_numpy()
            matrix = self._measurement.X[place.layer]
            if is_dense(matrix):
                raise BadInput(f"{name}: a dense array; expected a sparse one")
            store = weakref.proxy(self)  # no circle: a store that nobody uses is closed at once
            naming = Naming(lambda: store.obs_names(), lambda: np.asarray(store.var().index), in_words(self.others))
            named = naming if checked else None
            self.readers = {"rna": SomaReader(matrix, ids, np.sort(var_ids), self.n_all, name, named)}
        if checked:
            check_first(self.readers["rna"])

    def obs(self, column: str) -> Column:
        """Values of an obs column: array, or pandas Categorical."""
        values: Column = self._read_obs([column])[column].iloc[self._order].array
        if self._ids is not None and isinstance(values, pd.Categorical):
            return values.remove_unused_categories()
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
        expression = None if obs_filter is None else ObsFilter(obs_filter, self.name)
        primary = self._is_census() and census.PRIMARY not in (expression.columns if expression else ())
        if expression is None and not primary:
            return np.asarray(self._query(["soma_joinid"])["soma_joinid"])
        if expression is not None:
            expression.check_columns(list(self._experiment.obs.schema.names))
        columns = ["soma_joinid", *(expression.columns if expression else ()), *([census.PRIMARY] if primary else ())]
        passing: list[Ints] = []
        parts: list[pd.DataFrame] = []
        n_copies = 0
        for table in self._experiment.obs.read(column_names=list(dict.fromkeys(columns))):
            part = table.to_pandas()
            passes = np.ones(len(part), bool) if expression is None else expression.passes(part)
            if primary:
                kept = passes & part[census.PRIMARY].to_numpy(bool)
                n_copies, passes = n_copies + int(passes.sum() - kept.sum()), kept
            passing.append(part["soma_joinid"].to_numpy()[passes])
            parts.append(part if not passes.any() and len(parts) < SHOWN_PARTS else part.iloc[:0])
        ids = np.concatenate(passing or [np.empty(0, np.int64)])
        if n_copies:
            self.notes.append(census.note(self.name, n_copies, self._context))
        if len(ids) == 0 and n_copies:
            raise BadInput(f"{self.notes[-1]}; no other cell is there")
        if len(ids) == 0 and expression is not None:
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
