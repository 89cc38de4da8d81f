"""Tables of cells or labels as people have them: CSV, TSV, semicolons, text files, packed or not, and Parquet."""

import csv
import io
import itertools
from pathlib import Path

import pandas as pd

from data_loaders.contents import kind_of
from data_loaders.errors import BadInput
from data_loaders.storage import local_copy, shown
from data_loaders.text_files import open_text
from data_loaders.types import PathLike

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}
READERS = {b"PAR1": pd.read_parquet, b"ARRO": pd.read_feather}  # by the first bytes
LINES = 20  # looked at to find the separator


def read_table(path: PathLike, *, names_first: bool) -> pd.DataFrame:
    """Read a table.

    Of text the separator is found in the header: tabs, semicolons, commas or bars, and with names also blanks, where
    every line has as many. Values stay text ("01" and "NA" are names too); those of Parquet keep their types.

    Parameters
    ----------
    path : path-like or address
        Text (UTF-8, or UTF-16 with a mark), gzip, bz2, xz or zstd of it, or Parquet or Feather; seen by the content.
    names_first : bool
        The first column has the names of the rows; its header may be missing, as R writes it.

    Returns
    -------
    pandas.DataFrame
        With names, the index is text.

    Raises
    ------
    BadInput
        No such file, no table, or no column beside the names.
    """
    try:
        with local_copy(path) as local:
            with local.open("rb") as file:
                reader = READERS.get(file.read(4))
            table = reader(local) if reader else _read_text(local, names_first)
        path = shown(path)
    except FileNotFoundError:
        raise BadInput(f"{shown(path)}: no such file; expected a table") from None
    except BadInput:
        raise
    except Exception as error:  # csv, pandas, pyarrow and the unpackers raise what they like on what is no table
        raise BadInput(f"{shown(path)}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from error
    if not names_first:
        return table
    if isinstance(table.index, pd.RangeIndex) and table.shape[1]:
        table = table.set_index(table.columns[0])
    table.index = table.index.astype(str)
    table.columns = table.columns.astype(str)
    if table.shape[1] == 0:
        raise BadInput(
            f"{path}: a single column {str(table.index.name)[:60]!r}; expected the cells' names and a column or more, "
            "in text with tabs, commas or semicolons between them"
        )
    return table


def _read_text(path: Path, names_first: bool) -> pd.DataFrame:
    kind = kind_of(path)
    if kind is not None and not kind.startswith("packed"):
        what, _, way = kind.partition(": ")
        raise BadInput(f"{path}: {what}; expected a table of text{': ' if way else ''}{way}")
    with open_text(path) as handle:
        text = handle.read()
    lines = list(itertools.islice((line for line in io.StringIO(text, newline=None) if line.strip()), LINES))
    if not lines:
        raise BadInput(f"{path}: an empty file; expected a table")
    separator = _separator(lines, names_first, ".tsv" in path.name)
    return pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)


def _separator(lines: list[str], names_first: bool, tabs: bool) -> str:
    """The separator by which all lines are equally long, the header perhaps shorter by the name of the names."""
    if tabs and "\t" in lines[0]:
        return "\t"
    for separator in [*SEPARATORS, *([" "] if names_first else [])]:
        header, *rows = (len(row) for row in csv.reader(lines, delimiter=separator))
        widths = set(rows) or {header}
        if (
            len(widths) == 1
            and (width := widths.pop()) > 1
            and header in ({width, width - 1} if names_first else {width})
        ):
            return separator
    return next((separator for separator in SEPARATORS if separator in lines[0]), "\x1f")  # or a single column
