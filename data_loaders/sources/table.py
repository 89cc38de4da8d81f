"""Text tables of counts as sources: `.csv`, `.tsv` and `.txt`, plain or packed, with genes in rows or in columns.

The first row names the columns and the first column names the rows. Lines are read one after the other, and a block of
them is turned into numbers at a time, so memory is that of a block and of the names.
"""

import csv
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from scipy.sparse import csr_matrix

from data_loaders.contents import kind_of
from data_loaders.errors import DAMAGED, BadInput, nearest, readable
from data_loaders.sources import matrices
from data_loaders.sources.orientation import genes_are_in_rows
from data_loaders.sources.source import Block, Options, Source
from data_loaders.text_files import open_text
from data_loaders.types import Array

ENDINGS = re.compile(r"\.(csv|tsv|txt|tab)(\.(gz|bz2|xz|zst))?$", re.IGNORECASE)
SEPARATORS = ("\t", ",", ";", " ")
AXES = ("rows", "columns")


def recognises(path: str) -> bool:
    """Whether a path is a file that ends like a table."""
    return ENDINGS.search(path) is not None and Path(path).is_file()


def open(path: str, options: Options) -> Source:
    """Open a table of counts; `genes_in` of the options says which axis is the genes where names do not.

    Raises
    ------
    BadInput
        When it is no table of numbers, or it cannot be told which axis is the genes.
    """
    if options.genes_in is not None and options.genes_in not in AXES:
        raise BadInput(f"`genes_in={options.genes_in!r}`: {nearest(options.genes_in, AXES)}")
    with readable(path):
        kind = kind_of(path)
        if kind is not None and not kind.startswith(("packed", "an empty")):
            raise BadInput(f"{path}: not a table but {kind}")
        layout, rows = _layout(path)
    in_rows = options.genes_in == "rows" if options.genes_in else genes_are_in_rows(rows, layout.columns)
    if in_rows is None:
        raise BadInput(
            f"{path}: rows such as {_some(rows)}, columns such as {_some(layout.columns)}: the names do not tell which "
            "are the genes; `genes_in='rows'` or `genes_in='columns'` says it"
        )
    cells, genes = (layout.columns, rows) if in_rows else (rows, layout.columns)
    notes = [f"{path}: genes are in rows; the table was turned round"] if in_rows else []
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    var = pd.DataFrame(index=pd.Index(genes, dtype=object))
    if obs.index.has_duplicates:
        notes.append(f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)")
        obs.index = make_index_unique(obs.index)
    matrix = TableMatrix(path, layout, (len(rows), len(layout.columns)), in_rows)
    return Source(path, obs, var, matrix, np.arange(len(genes)), counts_from="the table", notes=notes)


class Layout(NamedTuple):
    """How a table is written: what is between its fields, the lines before the first row, and its column names."""

    separator: str
    skipped: int
    columns: list[str]


class TableMatrix:
    """The numbers of a table.

    Parameters
    ----------
    path : str
    layout : Layout
    size : (int, int)
        Rows and columns as they lie in the file.
    genes_in_rows : bool
    """

    def __init__(self, path: str, layout: Layout, size: tuple[int, int], genes_in_rows: bool) -> None:
        self.name, self._path, self._layout = f"{path}: counts", path, layout
        self._size, self._is_turned = size, genes_in_rows
        self.shape = size[::-1] if genes_in_rows else size
        self.n_values = size[0] * size[1]

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        step = max(matrices.BLOCK_VALUES // max(self._size[1], 1), 1)
        with readable(self.name):
            lines = _rows(self._path, self._layout)
            start = 0
            while start < self._size[0]:
                stop = min(start + step, self._size[0])
                values = np.empty((stop - start, self._size[1]))
                for i in range(stop - start):
                    name, numbers = next(lines, ("", None))
                    if numbers is None:
                        raise BadInput(f"{self.name}: ends after {start + i:,} of {self._size[0]:,} rows; {DAMAGED}")
                    values[i] = _numbers(numbers, self._layout, f"{self._path}: row {name!r}")
                yield self._block(values, start, stop)
                start = stop

    def _block(self, values: Array, start: int, stop: int) -> Block:
        """Rows [start, stop) of the file as a block of cells."""
        if not self._is_turned:
            return np.arange(start, stop), csr_matrix(values)
        genes, cells = np.nonzero(values)
        return matrices.partial_rows(cells, genes + start, values[genes, cells], self.shape[1])


def _layout(path: str) -> tuple[Layout, list[str]]:
    """How a table is written, and the names of its rows."""
    with open_text(path) as file:
        skipped, header = 0, ""
        for header in file:
            if header.strip() and not header.startswith(("#", "%")):
                break
            skipped += 1
        first = next((line for line in file if line.strip()), "")
    if not first:
        raise BadInput(f"{path}: no row of numbers in it; expected a table of counts, names first")
    counts = {separator: len(_fields(first, separator)) for separator in SEPARATORS}
    fits = {one: len(_fields(header, one)) in (counts[one], counts[one] - 1) for one in SEPARATORS}  # R has no corner
    separator = max(SEPARATORS, key=lambda one: (counts[one] > 1 and fits[one], counts[one] if one != " " else 2))
    n_fields = counts[separator]
    columns = _fields(header, separator)
    if len(columns) == n_fields:  # R leaves the corner out
        columns = columns[1:]
    if n_fields < 2 or len(columns) != n_fields - 1:
        raise BadInput(
            f"{path}: the header has {len(columns)} names, the first row {n_fields} fields; expected a table of counts "
            "with the names of rows in the first column, between tabs, commas, semicolons or spaces"
        )
    layout = Layout(separator, skipped + 1, columns)
    _numbers(_name_and_rest(first, separator)[1], layout, f"{path}: row {_name_and_rest(first, separator)[0]!r}")
    return layout, [name for name, _ in _rows(path, layout)]


def _rows(path: str, layout: Layout) -> Iterator[tuple[str, str]]:
    """Name and numbers, still text, of each row."""
    with open_text(path) as file:
        for _ in range(layout.skipped):
            next(file)
        for line in file:
            if line.strip():
                yield _name_and_rest(line, layout.separator)


def _name_and_rest(line: str, separator: str) -> tuple[str, str]:
    """The first field of a line, and what comes after it."""
    line = line.rstrip("\r\n")
    if line.startswith('"'):
        end = line.find(f'"{separator}', 1)
        if end > 0:
            return line[1:end].replace('""', '"'), line[end + 2 :]
    name, _, rest = line.partition(separator)
    return name.strip(), rest


def _numbers(text: str, layout: Layout, where: str) -> Array:
    """The numbers of a row."""
    text = text.rstrip() if layout.separator == " " else text
    with (
        warnings.catch_warnings(),
        suppress(ValueError, DeprecationWarning),
    ):  # where it stops at what is no number, the loop below says so
        warnings.simplefilter("error", DeprecationWarning)
        values: Array = np.fromstring(text, sep=layout.separator)
        if len(values) == len(layout.columns) and text.count(layout.separator) == len(values) - 1:
            return values
    fields = _fields(text, layout.separator)
    if len(fields) != len(layout.columns):
        raise BadInput(f"{where} has {len(fields):,} numbers, the header {len(layout.columns):,} names; {DAMAGED}")
    numbers = np.empty(len(fields))
    for i, (column, field) in enumerate(zip(layout.columns, fields, strict=True)):
        try:
            numbers[i] = float(field)
        except ValueError:
            raise BadInput(
                f"{where}: {field!r} in column {column!r}; expected a number: a table of counts has names in the first "
                "row and the first column, and numbers elsewhere"
            ) from None
    return numbers


def _fields(line: str, separator: str) -> list[str]:
    """The fields of a line, without quotes."""
    line = line.rstrip("\r\n")
    line = line.strip() if separator == " " else line
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:2])
