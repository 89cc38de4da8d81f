"""The obs columns of several sources as one table: names made unique, labels checked, simple columns kept.

Cells without a label, and cells that are marked as copies, are left out here where the user says so, before any count
is read.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.ingestion.left_out import settle_cells
from data_loaders.labels import as_label
from data_loaders.names import is_storable
from data_loaders.sources.rows import keep_rows
from data_loaders.sources.source import Source
from data_loaders.types import Array

OURS = ("split", "size_factor", "source", "source_row")
UNSTORABLE = "of a name that a store cannot have, such as one with '/' in it"
TAKEN = ("_index", "split", "size_factor", "source_row", "shard", "is_generated", "n", "row")  # atlases, label tables
MOST_CATEGORIES = 100  # that a column may have when most of them are single cells


class Cells(NamedTuple):
    """The cells of all sources, in their order.

    Attributes
    ----------
    obs : pandas.DataFrame
        Index: unique cell names. `source_row` is the cell's row in its source and `source`, when there are several,
        names the source.
    notes : list of str
        For the user.
    dropped : dict of str to int
        Why cells were left out → how many.
    """

    obs: pd.DataFrame
    notes: list[str]
    dropped: dict[str, int]


def merge_obs(
    sources: Sequence[Source],
    labels: Sequence[str],
    also: Sequence[str] = (),
    *,
    missing_values: Sequence[str] = (),
    unlabelled: str = "refuse",
    drop_copies: bool = False,
) -> Cells:
    """One obs table over all cells of all sources, in their order.

    Parameters
    ----------
    sources : list of sources.Source
        Of those with cells that are left out, obs and matrix are cut.
    labels : sequence of str
        Columns that must be there; they become categorical text.
    also : sequence of str
        Other columns to treat like labels, without their being labels; none of their values may be missing.
    missing_values, unlabelled, drop_copies
        As `ingest` takes them.

    Returns
    -------
    Cells

    Raises
    ------
    BadInput
        A label column is missing somewhere, has gaps that are refused, or is a measurement rather than a label.
    """
    notes = []
    keys = source_keys(sources)
    wanted = list(dict.fromkeys([*labels, *also]))
    for name in wanted:
        if name in TAKEN or not is_storable(name):
            raise BadInput(f"label {name!r}: this name cannot be a label column; rename it")
        if list(labels).count(name) > 1:
            raise BadInput(f"label {name!r}: given more than once; expected each label once")
    tables = []
    for source, key in zip(sources, keys, strict=True):
        table = source.obs.copy(deep=False)
        table.columns = table.columns.astype(str)
        replaced = [name for name in OURS if name in table and not (name == "source" and len(sources) == 1)]
        if replaced:
            notes.append(f"{source.path}: obs columns {replaced} were replaced by new ones")
            table = table.drop(columns=replaced)
        if len(sources) > 1:
            table["source"] = pd.Categorical([key] * len(table), categories=keys)
        for name in wanted:
            table[name] = _as_label(table, name, source, missing_values)
        table["source_row"] = np.arange(len(table), dtype=np.int64) if source.rows is None else source.rows
        tables.append(table)
    left_in, more, dropped = settle_cells(sources, tables, labels, also, unlabelled, drop_copies)
    notes += more
    for i, (source, kept) in enumerate(zip(sources, left_in, strict=True)):
        if not kept.all():
            keep_rows(source, kept)
            tables[i] = tables[i][kept].copy()
            for name in wanted:
                tables[i][name] = tables[i][name].cat.remove_unused_categories()
    merged, lost = _concatenate(tables, wanted)
    for name in wanted:
        _refuse_measurement(name, merged[name].cat, ", ".join(source.path for source in sources))
    if lost:
        notes.append(f"obs columns left out (not in every source, of no simple type, or {UNSTORABLE}): {lost}")
    if merged.index.has_duplicates:
        notes.append("cell names occur in more than one source: '-SOURCE' was added to all of them")
        names = [f"{name}-{key}" for table, key in zip(tables, keys, strict=True) for name in table.index]
        merged.index = pd.Index(names, dtype=object)
    return Cells(merged, notes, dropped)


def source_keys(sources: Sequence[Source]) -> list[str]:
    """A short name for each source: the file name without its ending, or the path where those are not unique."""
    stems = [Path(source.path).absolute().name for source in sources]
    stems = [stem.removesuffix(".h5ad").removesuffix(".h5").removesuffix(".zarr") for stem in stems]
    return stems if len(set(stems)) == len(stems) else [source.path for source in sources]


def _as_label(table: pd.DataFrame, name: str, source: Source, missing_values: Sequence[str]) -> pd.Series:
    """A label column as categorical text without unused categories."""
    if name not in table:
        known = [column for column in table if column not in OURS]
        others = nearest(name, known) if known else "it has none, `obs_files=TABLE` adds those of a table"
        raise BadInput(f"{source.path}: no obs column {name!r}; {others}")
    column = table[name]
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.dropna()
    if pd.api.types.is_float_dtype(values.dtype) and (values % 1 != 0).any():
        raise BadInput(f"{source.path}: obs column {name!r} holds fractional numbers; expected text or whole numbers")
    label = as_label(column, missing_values, sort_numbers=True).remove_unused_categories()
    return pd.Series(label, index=table.index)


def _refuse_measurement(name: str, column: pd.Series, paths: str) -> None:
    """Refuse a label whose categories are mostly single cells: whole-number measurements and cell names."""
    codes = column.codes[column.codes >= 0]
    cells = np.bincount(codes, minlength=len(column.categories))
    single = int((cells == 1).sum())
    if len(cells) > MOST_CATEGORIES and 2 * single > len(cells):
        raise BadInput(
            f"{paths}: obs column {name!r} has {len(cells):,} categories in {cells.sum():,} cells, {single:,} of them "
            "with a single cell; expected a label, not a measurement"
        )


def _concatenate(tables: list[pd.DataFrame], wanted: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """Rows of all tables, with the columns that all have, in simple types; and the names of the other columns."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    columns: dict[str, Array | pd.Categorical] = {}
    lost = []
    for name in names:
        parts = [table[name] for table in tables if name in table]
        usable = len(parts) == len(tables) and is_storable(name)
        column = _joined(parts) if usable else None
        if column is None:
            lost.append(name)
        else:
            columns[name] = column
    front = [name for name in wanted if name in columns]
    order = front + [name for name in columns if name not in front]
    index = pd.Index(np.concatenate([table.index.to_numpy(dtype=object) for table in tables]), dtype=object)
    return pd.DataFrame({name: columns[name] for name in order}, index=index), lost


def _joined(parts: list[pd.Series]) -> Array | pd.Categorical | None:
    """One column of the parts: categories, bool, number or text as an array; None if it is of none of these types."""
    if all(isinstance(part.dtype, pd.CategoricalDtype) for part in parts):
        texts = [part.cat.rename_categories([str(value) for value in part.cat.categories]) for part in parts]
        return pd.api.types.union_categoricals(texts, ignore_order=True) if len(texts) > 1 else texts[0].array
    column = pd.concat([part.astype(part.cat.categories.dtype) if hasattr(part, "cat") else part for part in parts])
    if pd.api.types.is_bool_dtype(column.dtype) and not column.isna().any():
        return column.to_numpy(bool)
    if pd.api.types.is_numeric_dtype(column.dtype) and column.dtype.kind in "biuf":
        return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.to_numpy(float, na_value=np.nan)
    if all(isinstance(value, str) for value in column.dropna()):
        return column.astype(object).where(column.notna(), "").to_numpy(dtype=object)
    return None
