"""Parquet with one row a cell as a source: a list of gene tokens, a list of values, and columns about the cell.

Tahoe-100M (`genes`, `expressions`) and X-Atlas/Orion (`gene_token_id`, `gene_expression`) are published so. A file, a
folder of parts and a pattern of them are one source; folders `COLUMN=VALUE` around the parts are columns too
(`sources.hive`). Which gene a token is says the table of `sources.gene_tokens`. Columns about the cell are obs; lists
are read later, a few rows of a row group at a time.
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from anndata.utils import make_index_unique
from scipy.sparse import csr_matrix

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.sources import matrices
from data_loaders.sources.gene_tokens import Genes, find_genes
from data_loaders.sources.hive import add_partitions, is_partition, outside
from data_loaders.sources.source import Block, Options, Source
from data_loaders.types import Array, Bools, Ints

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".parquet", ".pq")
TOKENS = ("genes", "gene_token_id", "gene_token_ids", "gene_tokens", "gene_ids", "token_ids", "tokens", "input_ids")
VALUES = ("expressions", "expression", "gene_expression", "gene_expressions", "counts", "raw_counts", "umis", "values")
CELLS = (  # columns with the names of cells
    "cell_barcode", "barcode_sub_lib_id", "barcode", "barcodes", "cell_id", "cell_name", "cell_names", "cellid", "cell",
    "obs_names", "index", "__index_level_0__",
)  # fmt: skip
OTHER_SOURCES = (".h5ad", ".h5mu", ".h5", ".zarr", ".mtx", ".mtx.gz")
LOOKED_AT = 100  # cells whose lists tell tokens from values


class Part(NamedTuple):
    """A file, the number of its first cell, and how many it has."""

    path: Path
    start: int
    n_cells: int


class Lists(NamedTuple):
    """The columns of lists that a cell's counts are in."""

    tokens: str
    values: str


def recognises(path: str) -> bool:
    """Whether a path is a Parquet file, a pattern of them, or a folder of parts with lists and no other sources."""
    return bool(_files(path))


def holds_cells(path: Path) -> bool:
    """Whether a Parquet file has two columns of lists of numbers or more, or cannot be read."""
    try:
        return len(_lists(_schema(path))) > 1
    except BadInput:
        return True


def open(path: str, options: Options) -> Source:
    """Open a file, a folder or a pattern of Parquet files.

    `layer` of the options names the list of values where there are several, `genes_table` the table of genes where
    none or several are beside the files.

    Raises
    ------
    BadInput
        No lists of tokens and values, or several that could be meant; no table of genes; parts that differ.
    """
    files = [Path(file) for file in _files(path)]
    schemas = [_schema(file) for file in files]
    of_numbers = _lists(schemas[0])
    if len(of_numbers) < 2:
        raise BadInput(
            f"{files[0]}: columns {_shown(schemas[0].names)}, of them {len(of_numbers)} with lists of numbers; "
            "expected one row a cell, with a list of gene tokens and a list of values"
        )
    genes = find_genes(path, outside(files[0]), list(of_numbers), options.genes_table)
    lists = _choose(files[0], of_numbers, options.layer, genes)
    for file, schema in zip(files, schemas, strict=True):
        lacking = [name for name in lists if name not in _lists(schema)]
        if lacking:
            raise BadInput(
                f"{file}: no lists of numbers {lacking[0]!r}, which {files[0].name} has; expected like parts"
            )
    parts, n_values = _parts(files, lists)
    obs, notes = _obs(path, parts, schemas)
    notes.append(f"{path}: tokens are the genes of {genes.path}")
    matrix = ParquetMatrix(path, parts, lists, genes.tokens, obs.index, n_values)
    marker = matrix.marker()
    if marker:
        notes.append(f"{path}: the first pair of a cell is {marker}, which stands for no gene; it is left out")
    source = Source(path, obs, genes.var, matrix, np.arange(len(genes.var)), f"{lists.values} of {lists.tokens}")
    source.notes = notes
    source.others = ["layer"] if len(of_numbers) > 2 else []
    return source


class ParquetMatrix:
    """The lists of tokens and values as a `sources.source.Matrix`.

    Parameters
    ----------
    path : str
        For messages.
    parts : list of Part
    lists : Lists
    tokens : int64 (n_genes,)
        Of each gene, ascending.
    cells : pandas.Index
        Names of the cells, for messages.
    n_values : int
        Entries of all lists.
    """

    def __init__(
        self, path: str, parts: Sequence[Part], lists: Lists, tokens: Ints, cells: pd.Index, n_values: int
    ) -> None:
        self.name, self.shape, self.n_values = f"{path}: {lists.values}", (len(cells), len(tokens)), n_values
        self._parts, self._lists, self._tokens, self._cells = parts, lists, tokens, cells

    def blocks(self) -> Iterator[Block]:
        """Yield `(rows, csr)`."""
        n_rows = max(matrices.BLOCK_VALUES * self.shape[0] // max(self.n_values, 1), 1)
        for part in self._parts:
            start = part.start
            for batch in _batches(part.path, self._lists, n_rows):
                yield self._block(batch, start)
                start += batch.num_rows

    def marker(self) -> str:
        """What the first pair of the first cell is, if it stands for no gene; else an empty text."""
        for part in self._parts:
            for batch in _batches(part.path, self._lists, 1):
                tokens, values, lengths = self._pairs(batch, part.start)
                if lengths[0] and self._is_marker(tokens, values, np.zeros(1, np.int64))[0]:
                    return f"token {tokens[0]} with the value {values[0]:g}"
                return ""
        return ""

    def _block(self, batch: "pa.RecordBatch", start: int) -> Block:
        tokens, values, lengths = self._pairs(batch, start)
        ends = np.cumsum(lengths)
        firsts = (ends - lengths)[lengths > 0]
        marked = self._is_marker(tokens, values, firsts)
        columns = np.minimum(np.searchsorted(self._tokens, tokens), len(self._tokens) - 1)
        known = self._tokens[columns] == tokens
        stray = ~known & ~marked & (values != 0)  # padding has no counts
        if stray.any():
            at = int(stray.argmax())
            cell = self._cells[start + int(np.searchsorted(ends, at, side="right"))]
            raise BadInput(
                f"{self.name}: cell {str(cell)!r} has the value {values[at]:g} for token {tokens[at]}, which is not in "
                f"the table of genes (tokens {self._tokens[0]} to {self._tokens[-1]}); expected the table of these "
                "cells, `genes_table=PATH`"
            )
        cells = np.repeat(np.arange(len(lengths)), lengths)
        indptr = np.append(0, np.cumsum(np.bincount(cells[known], minlength=len(lengths))))
        block = csr_matrix((values[known], columns[known], indptr), shape=(len(lengths), self.shape[1]))
        block.sum_duplicates()
        return np.arange(start, start + len(lengths)), block

    def _pairs(self, batch: "pa.RecordBatch", start: int) -> tuple[Ints, Array, Ints]:
        """Tokens and values of a batch one after the other, and how many of them each cell has."""
        tokens, of_tokens = self._flat(batch, self._lists.tokens)
        values, of_values = self._flat(batch, self._lists.values)
        if (of_tokens != of_values).any():
            row = int((of_tokens != of_values).argmax())
            raise BadInput(
                f"{self.name}: cell {str(self._cells[start + row])!r} has {of_tokens[row]:,} entries in "
                f"{self._lists.tokens!r}, {of_values[row]:,} in {self._lists.values!r}; expected lists of one length"
            )
        return tokens.astype(np.int64), matrices.native(values), of_tokens

    def _flat(self, batch: "pa.RecordBatch", name: str) -> tuple[Array, Ints]:
        """The entries of a column of lists, and the length of each list."""
        import pyarrow.compute as pc

        column = batch.column(batch.schema.get_field_index(name))
        entries = column.flatten()
        if entries.null_count:
            raise BadInput(f"{self.name}: {entries.null_count:,} entries of {name!r} are null; expected numbers")
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        return entries.to_numpy(zero_copy_only=False), lengths.to_numpy(zero_copy_only=False).astype(np.int64)

    def _is_marker(self, tokens: Ints, values: Array, firsts: Ints) -> Bools:
        """Which entries are a negative value of an unknown token at the start of a cell."""
        marked = np.zeros(len(tokens), bool)
        if values.dtype.kind in "if" and len(firsts):
            marked[firsts] = (values[firsts] < 0) & ~np.isin(tokens[firsts], self._tokens)
        return marked


def _files(path: str) -> list[str]:
    """The files of a path, sorted; none if it is not of this format."""
    place = Path(path)
    if place.is_file():
        return [path] if path.lower().endswith(ENDINGS) else []
    if place.is_dir():
        return _of_folder(place) or (_of_folder(place / "data") if (place / "data").is_dir() else [])
    if glob.has_magic(path) and path.lower().endswith(ENDINGS):
        return [file for file in sorted(glob.glob(path)) if Path(file).is_file()]
    return []


def _of_folder(folder: Path) -> list[str]:
    """The Parquet files with cells in a folder, none if it has sources of other formats."""
    with readable(folder):
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "_")))
    if any(entry.name.endswith(OTHER_SOURCES) for entry in entries):
        return []
    found = []
    for entry in entries:
        if entry.is_dir() and is_partition(entry):
            found += _of_folder(entry)
        elif entry.suffix.lower() in ENDINGS and entry.is_file() and holds_cells(entry):
            found.append(str(entry))
    return found


def _schema(file: Path) -> "pa.Schema":
    import pyarrow.parquet as pq

    with readable(file):
        schema = pq.read_schema(file)
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise BadInput(f"{file}: more than one column {twice[0]!r}; expected each once")
    return schema


def _lists(schema: "pa.Schema") -> dict[str, Any]:
    """Columns of lists of numbers → the type of their entries."""
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    found = {field.name: field.type.value_type for field in schema if any(kind(field.type) for kind in kinds)}
    return {name: kind for name, kind in found.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)}


def _choose(file: Path, lists: Mapping[str, Any], layer: str | None, genes: Genes) -> Lists:
    """Which lists are the tokens and the values: by their names, their types, or what is in them."""
    import pyarrow as pa

    if layer is not None and layer not in lists:
        raise BadInput(f"{file}: `layer={layer!r}` is no column of lists of numbers; {nearest(layer, lists)}")
    could = [name for name, kind in lists.items() if pa.types.is_integer(kind) and name != layer]
    tokens = _one(could, TOKENS)
    if tokens is None and len(could) > 1:
        tokens = _one([name for name in could if _are_tokens(file, name, genes.tokens)], ())
    if tokens is None:
        found = f"lists of whole numbers {_shown(could)}" if could else "no lists of whole numbers"
        raise BadInput(f"{file}: {found}; expected one with gene tokens, called {_shown(TOKENS[:2], ' or ')}")
    others = [name for name in lists if name != tokens]
    values = layer or _one(others, VALUES)
    if values is None:
        raise BadInput(f"{file}: lists of numbers {_shown(others)}; expected one of them, choose by `layer=NAME`")
    return Lists(tokens, values)


def _one(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The only name, or the only one that is known."""
    named = [name for name in names if name.lower() in known]
    return names[0] if len(names) == 1 else named[0] if len(named) == 1 else None


def _are_tokens(file: Path, name: str, known: Ints) -> bool:
    """Whether the first lists of a column name each gene of the table at most once, but for a marker in front."""
    batch = next(_batches(file, Lists(name, name), LOOKED_AT), None)
    found = [] if batch is None else [np.asarray(row) for row in batch.column(0).to_pylist() if row]
    return bool(found) and all(np.isin(row[1:], known).all() and len(np.unique(row)) == len(row) for row in found)


def _batches(file: Path, lists: Lists, n_rows: int) -> Iterator["pa.RecordBatch"]:
    """The lists of a file, some rows at a time."""
    import pyarrow.parquet as pq

    with readable(f"{file}: lists"), pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(batch_size=n_rows, columns=list(dict.fromkeys(lists)))


def _parts(files: Sequence[Path], lists: Lists) -> tuple[list[Part], int]:
    """The files with their numbers of cells, and the number of values in all of them."""
    import pyarrow.parquet as pq

    parts, start, n_values = [], 0, 0
    for file in files:
        with readable(file):
            metadata = pq.read_metadata(file)
            leaf = next(i for i, name in enumerate(_leaves(metadata)) if name.split(".")[0] == lists.values)
            groups = [metadata.row_group(i).column(leaf) for i in range(metadata.num_row_groups)]
        n_values += sum(group.num_values for group in groups)
        parts.append(Part(file, start, metadata.num_rows))
        start += metadata.num_rows
    return parts, n_values


def _leaves(metadata: Any) -> list[str]:
    return [metadata.schema.column(i).path for i in range(len(metadata.schema))]


def _obs(path: str, parts: Sequence[Part], schemas: Sequence["pa.Schema"]) -> tuple[pd.DataFrame, list[str]]:
    """The columns about the cells of all parts, and what to note of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name in schemas[0].names if all(name in schema.names for schema in schemas)]
    names = [name for name in names if not any(pa.types.is_nested(schema.field(name).type) for schema in schemas)]
    every = list(dict.fromkeys(name for schema in schemas for name in schema.names))
    lost = [name for name in every if name not in names and name not in _lists(schemas[0])]
    notes = [f"{path}: columns not in every part, or nested, were left out: {_shown(lost)}"] if lost else []
    texts = [name for name in names if _is_text(schemas[0].field(name).type)]
    tables = []
    for part in parts:
        with readable(f"{part.path}: columns about the cells"):
            tables.append(pq.read_table(part.path, columns=names, read_dictionary=texts))
    try:
        table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
        obs = table.to_pandas(ignore_metadata=True)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path}: parts have columns of other types ({reason}); expected like parts") from error
    obs.index = pd.RangeIndex(sum(part.n_cells for part in parts)).astype(str)
    cells = next((name for known in CELLS for name in obs if str(name).lower() == known and name in texts), None)
    if cells is not None and obs[cells].notna().all():
        obs.index = pd.Index(obs.pop(cells).to_numpy(dtype=object), dtype=object)
        if obs.index.has_duplicates:
            notes.append(
                f"{path}: {int(obs.index.duplicated().sum()):,} repeated cell names were numbered (-1, -2, ...)"
            )
            obs.index = make_index_unique(obs.index)
    else:
        notes.append(
            f"{path}: cells are named by their numbers; no column of text is called {_shown(CELLS[:3], ' or ')}"
        )
    notes += add_partitions(path, obs, [part.path for part in parts], [part.n_cells for part in parts])
    return obs, notes


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _shown(names: Sequence[str], joint: str = ", ") -> str:
    return joint.join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
