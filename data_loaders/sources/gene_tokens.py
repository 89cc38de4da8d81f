"""The table that says which gene a token is: one row a gene, a column of tokens, and its names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, readable
from data_loaders.tables import read_table
from data_loaders.types import Ints, PathLike

TOKEN_NAMES = ("token_id", "gene_token_id", "token", "gene_token", "tokens", "token_ids", "gene_token_ids")
TEXT_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SPECIAL = r"<[^<>]*>"  # a name of no gene: <pad>, <cls>, <eoc>
BESIDE = ("", "metadata")  # where it is looked for, from the folder of the cells and from that of `data`


class Genes(NamedTuple):
    """The genes of tokens.

    Attributes
    ----------
    path : str
        Of the table.
    tokens : int64 (n_genes,)
        Ascending.
    var : pandas.DataFrame
        The columns of the table, in the order of the tokens; index: the tokens as text.
    """

    path: str
    tokens: Ints
    var: pd.DataFrame


def find_genes(path: str, folder: Path, lists: Sequence[str], given: PathLike | None) -> Genes:
    """The table of genes: the one that is given, or the only one beside the cells.

    Looked for in the folder of the cells, in `metadata` in it, and, where that folder is `data` or in one, in the
    folder around `data` and its `metadata`; the nearest counts.

    Parameters
    ----------
    path : str
        Of the cells, for messages.
    folder : Path
        Where they are.
    lists : sequence of str
        Columns of lists that the cells have; a token column may be called as one of them.
    given : path-like or None
        A Parquet file or a text table.

    Raises
    ------
    BadInput
        There is none or more than one, or the one given has no such column.
    """
    names = [*TOKEN_NAMES, *(name.lower() for name in lists)]
    if given is not None:
        return _genes(str(given), _table(Path(given)), names)
    around = [place for place in folder.parents[:2] if folder.relative_to(place).parts[0] == "data"]
    places = [folder, *around]
    for place in dict.fromkeys(at / name for at in places for name in BESIDE):
        found = _candidates(place, names)
        if len(found) > 1:
            shown = ", ".join(str(file) for file in found[:5])
            raise BadInput(f"{path}: several tables of genes, {shown}; expected one of them, `genes_table=PATH`")
        if found:
            return _genes(str(found[0]), _table(found[0]), names)
    raise BadInput(
        f"{path}: no table of genes beside it (Parquet, CSV, TSV) with a column {TOKEN_NAMES[0]!r} and their names; "
        "expected `genes_table=PATH`"
    )


def _candidates(place: Path, names: Sequence[str]) -> list[Path]:
    """Tables of a folder with a column of tokens and one of text, and no lists: Parquet, or text such as CSV."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for file in sorted(place.glob("*.parquet")) if place.is_dir() else []:
        try:
            schema = pq.read_schema(file)
        except (OSError, ValueError):
            continue  # whatever is damaged there is none
        texts = any(_is_text(field.type) for field in schema)
        tokens = any(field.name.lower() in names and pa.types.is_integer(field.type) for field in schema)
        if texts and tokens and not any(pa.types.is_nested(field.type) for field in schema):
            found.append(file)
    for file in sorted(place.iterdir()) if place.is_dir() else []:
        if file.name.lower().endswith(TEXT_ENDINGS) and file.is_file():
            try:
                table = _table(file)
            except BadInput:
                continue
            numbers = [name for name in table if _whole(table[name])]
            if any(name.lower() in names for name in numbers) and len(numbers) < table.shape[1]:
                found.append(file)
    return found


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _table(file: Path) -> pd.DataFrame:
    with readable(file):
        table = read_table(file, names_first=False)
    table.columns = table.columns.astype(str)
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def _genes(path: str, table: pd.DataFrame, names: Sequence[str]) -> Genes:
    """The genes of a table."""
    whole = [name for name in table if _whole(table[name])]
    named = [name for known in names for name in whole if name.lower() == known]
    column = next(iter(named or (whole if len(whole) == 1 else [])), None)
    if column is None:
        raise BadInput(
            f"{path}: columns {', '.join(map(repr, table.columns[:10]))}; expected one of whole numbers with the "
            f"tokens of genes, called {TOKEN_NAMES[0]!r}"
        )
    special = table.astype(str).apply(lambda texts: texts.str.fullmatch(SPECIAL)).any(axis=1)
    table = table[~special]
    table = table.assign(**{column: pd.to_numeric(table[column]).astype("int64")}).sort_values(column)
    tokens = table[column].to_numpy()
    if len(np.unique(tokens)) < len(tokens):
        repeated = tokens[1:][np.diff(tokens) == 0][0]
        raise BadInput(f"{path}: token {repeated} of column {column!r} has more than one row; expected one a gene")
    return Genes(path, tokens, table.set_axis(pd.Index(tokens.astype(str), dtype=object)))


def _whole(column: pd.Series) -> bool:
    """Whether a column holds whole numbers, or text of them, and no gap."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return False
    numbers = pd.to_numeric(column, errors="coerce")
    return len(column) > 0 and bool(numbers.notna().all()) and bool((numbers % 1 == 0).all())
