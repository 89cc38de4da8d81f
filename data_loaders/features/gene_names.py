"""By which names the features of a source are known: one rule for all formats.

1. The index of var (`var_id` of a SOMA experiment, the symbols of a 10x output), if it is text and unique. Repeated
   symbols of a 10x output are numbered, as scanpy does.
2. Else the first column of `IDENTIFIERS` that is text and unique.
3. Else, where the index is bare numbers, the first such column of `SYMBOLS`, then any other such column.
4. Else the index, whatever it is.

`var_names` overrules all of it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.features.feature_types import key

IDENTIFIERS = (
    "feature_id", "feature_ids", "var_id", "gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "ensembl_gene_id",
    "ensembl", "ensg", "gene_accession", "accession",
)  # fmt: skip
SYMBOLS = (
    "feature_name", "feature_names", "var_names", "gene_symbols", "gene_symbol", "symbol", "symbols", "hgnc_symbol",
    "gene_short_name", "gene_names", "gene_name", "genes", "gene", "features", "feature", "names", "name", "peaks",
    "peak", "interval", "index",
)  # fmt: skip
NUMBER = re.compile(r"\s*[+-]?\d+(\.\d*)?(-\d+)*\s*")  # with what makes repeated ones unique
REPEATED, NUMBERS, NO_TEXT = "repeated", "bare numbers", "no text"
INDEX = "index"  # the word for the index of var, where no column is called so


class Named(NamedTuple):
    """A table of features indexed by their names, and what to tell the user."""

    var: pd.DataFrame
    notes: list[str]


def name_features(path: str, var: pd.DataFrame, column: str | None = None, *, number: bool = False) -> Named:
    """Index a table of features by their names.

    Parameters
    ----------
    path : str
        For messages.
    var : pandas.DataFrame
        `attrs["index"]` may be another name of its index.
    column : str, optional
        The column of var that has the names (`index`: its index); by the rule of this file when left out.
    number : bool
        Whether names that repeat in the index are numbered.

    Returns
    -------
    Named
        `attrs["named_by"]` of the table is the column that was taken, where it is not the index. An index of text that
        another column replaced stays as a column.

    Raises
    ------
    BadInput
        There is no such column, it holds neither text nor whole numbers, has gaps, or names two features alike.
    """
    if column is not None and not _is_index(column, var):
        return Named(_indexed_by(var, str(column), _asked(path, var, column)), [])
    problem = _problem(var.index.to_series())
    if problem == REPEATED and number:
        from anndata.utils import make_index_unique

        repeats = int(var.index.duplicated().sum())
        note = f"{path}: {repeats:,} repeated gene symbols were numbered (-1, -2, ...)"
        return Named(var.set_axis(make_index_unique(var.index)), [note])
    if problem is None or column is not None:
        return Named(var, [])
    for name in _candidates(var, problem):
        if _problem(var[name]) is None:
            what = {NUMBERS: "are numbers", REPEATED: "repeat", NO_TEXT: "have gaps"}[problem]
            note = f"{path}: genes are named by var[{str(name)!r}]; the names of var {what}"
            return Named(_indexed_by(var, name, var[name].astype(object)), [note])
    if problem == NUMBERS:
        return Named(var, [f"{path}: genes are named by numbers; no column of var is text and unique"])
    return Named(var, [])


def one_for_each(var_names: str | Sequence[str] | None, n_sources: int) -> list[str | None]:
    """The column that the user named for each source: one for all, or one for each.

    Raises
    ------
    BadInput
        There are several, but not as many as sources.
    """
    if var_names is None or isinstance(var_names, str):
        return [var_names] * n_sources
    columns: list[str | None] = list(var_names)
    if len(columns) == 1:
        columns *= n_sources
    if len(columns) != n_sources:
        raise BadInput(f"`var_names`: {len(columns)} columns for {n_sources} sources; expected one, or one for each")
    return columns


def usable_columns(var: pd.DataFrame) -> list[str]:
    """Columns of var that could name its features."""
    return [str(name) for name in var if _problem(var[name]) is None]


def _is_index(column: str, var: pd.DataFrame) -> bool:
    """Whether a word means the index of var."""
    return column not in var and column in (INDEX, var.index.name, var.attrs.get("index"))


def _asked(path: str, var: pd.DataFrame, column: str) -> pd.Series:
    """The names in the column that the user named."""
    if column not in var:
        known = [*map(str, var), INDEX]
        raise BadInput(f"{path}: no var column {column!r} to name genes by; {nearest(column, known)}")
    values = var[column].astype(object)
    gaps = int((values.isna() | (values == "")).sum())
    if gaps:
        raise BadInput(
            f"{path}: var column {column!r} has no value for {gaps:,} of {len(values):,} genes; {_other(var)}"
        )
    if not all(isinstance(value, str) for value in values):
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.isna().any() or (numbers % 1 != 0).any():
            raise BadInput(f"{path}: var column {column!r} holds neither text nor whole numbers; {_other(var)}")
        values = numbers.astype("int64").astype(str).astype(object)
    repeated = values[values.duplicated()].unique()
    if len(repeated):
        first = repeated[0]
        raise BadInput(
            f"{path}: var column {column!r} names {int((values == first).sum()):,} genes {first!r}, and so with "
            f"{len(repeated):,} names; {_other(var)}"
        )
    return values


def _other(var: pd.DataFrame) -> str:
    """Which columns have unique names, for messages."""
    usable = [repr(name) for name in usable_columns(var)]
    if _problem(var.index.to_series()) is None:
        usable.append(repr(INDEX))
    return (
        f"expected a unique name for each; {', '.join(usable[:10])} would do" if usable else "no other column would do"
    )


def _candidates(var: pd.DataFrame, problem: str) -> list[str]:
    """Columns to try in the place of the index, in order."""
    lists = (IDENTIFIERS, SYMBOLS) if problem == NUMBERS else (IDENTIFIERS,)
    known = [name for words in lists for word in words for name in var if key(name) == key(word)]
    rest = [name for name in var if name not in known] if problem == NUMBERS else []
    return [*dict.fromkeys(known), *rest]


def _problem(names: pd.Series) -> str | None:
    """What keeps values from being names; None if nothing does."""
    values = names.astype(object)
    if not all(isinstance(value, str) and value for value in values):
        return NO_TEXT
    if all(NUMBER.fullmatch(value) for value in values):
        return NUMBERS
    return None if values.is_unique else REPEATED


def _indexed_by(var: pd.DataFrame, column: str, names: pd.Series) -> pd.DataFrame:
    """The table indexed by the names of a column, which it loses; an old index that is text becomes a column."""
    table = var.drop(columns=column)
    old = str(var.index.name or var.attrs.get("index") or INDEX)
    if old not in var and _problem(var.index.to_series()) not in (NUMBERS, NO_TEXT):
        table[old] = var.index.to_numpy(object)
    table.index = pd.Index(names.to_numpy(object), dtype=object)
    table.attrs = {"named_by": column}
    return table
