"""Which genes an atlas has: the genes of several sources joined, or those of a list."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.features.shared_names import MIN_SHARED, lost_note, refuse_few_shared
from data_loaders.names import is_storable
from data_loaders.sources.source import Source
from data_loaders.storage import local_copy, shown
from data_loaders.types import Ints, PathLike


class Joined(NamedTuple):
    """Joined features.

    Attributes
    ----------
    var : pandas.DataFrame
        Index: the genes, in the order of the first source that has them. Columns: those that all sources have, values
        of the first source that has the gene.
    notes : list of str
        What the join lost.
    """

    var: pd.DataFrame
    notes: list[str]


def join_genes(
    sources: Sequence[Source], join: str | None = None, min_shared: float = MIN_SHARED, what: str = "genes"
) -> Joined:
    """The genes of several sources in one order.

    Parameters
    ----------
    sources : list of sources.Source
    join : {None, "inner", "outer"}
        None: all must have the same genes, in any order. "inner": the genes they share. "outer": all genes; a gene that
        a source lacks counts as zero there.
    min_shared : float
        The share of the smaller of two lists of genes that must be in both.
    what : str
        What features are called in messages.

    Returns
    -------
    Joined

    Raises
    ------
    BadInput
        Genes differ and `join` is None, or few are shared.
    """
    paths, names = [source.path for source in sources], [source.var.index for source in sources]
    refuse_few_shared(
        paths, names, lambda number: sources[number].var, join=join, min_shared=min_shared, what=what
    )  # fmt: skip
    first = sources[0]
    sources = list({id(source.var): source for source in sources}.values())  # many may share one table
    genes = first.var.index
    for source in sources[1:]:
        missing, new = genes.difference(source.var.index), source.var.index.difference(genes)
        if join is None and len(missing) + len(new):
            some = ", ".join(repr(str(name)) for name in [*missing[:2], *new[:2]])
            raise BadInput(
                f"{source.path}: lacks {len(missing):,} {what} of {first.path} and has {len(new):,} others ({some}); "
                f"expected the same {what}, or `join='inner'` or `join='outer'`"
            )
        shared = genes[genes.isin(source.var.index)]
        genes = shared if join == "inner" else genes.append(source.var.index[~source.var.index.isin(genes)])
    if len(genes) == 0:
        raise BadInput(f"{', '.join(source.path for source in sources)}: none of the {what} is in all of them")
    columns = [name for name in first.var if all(name in source.var for source in sources)]
    var = pd.concat([source.var[columns] for source in sources])
    var = var[~var.index.duplicated()].loc[genes]
    return Joined(simple_columns(var), lost_note(paths, names, genes, join, what))


def simple_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a gene table that are numbers, bools, text or categories."""
    keep = {}
    for name in table:
        column = table[name]
        if not is_storable(str(name)):
            continue
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
            keep[str(name)] = column
        elif all(isinstance(value, str) for value in column.dropna()):
            keep[str(name)] = column.astype(object).where(column.notna(), "")
    return pd.DataFrame(keep, index=table.index)


def column_map(source: Source, genes: pd.Index) -> Ints:
    """Column of each feature of a source among `genes`, int64 (features,); -1 for those that are not there."""
    columns = np.full(source.matrix.shape[1], -1, np.int64)
    columns[source.features] = genes.get_indexer(source.var.index)
    return columns


def read_gene_list(path: PathLike, genes: pd.Index) -> Ints:
    """Positions among `genes` of the names in a text file, one a line, in the file's order.

    Raises
    ------
    BadInput
        The file cannot be read, is empty, repeats a name, or names an unknown gene.
    """
    try:
        with local_copy(path) as local:
            names = [line.strip() for line in local.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{shown(path)}: cannot be read as a list of genes ({error}); expected hvg:N or a text file"
        ) from error
    if not names:
        raise BadInput(f"{path}: no gene names in it; expected one a line")
    positions: Ints = genes.get_indexer(names)
    if (positions < 0).any():
        unknown = names[int(np.flatnonzero(positions < 0)[0])]
        raise BadInput(
            f"{path}: {int((positions < 0).sum())} of {len(names)} genes are not in the counts, such as {unknown!r}; "
            f"{nearest(unknown, genes)}"
        )
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise BadInput(f"{path}: gene {twice!r} is named more than once")
    return positions


def parse_hvg(text: str) -> int | None:
    """N of "hvg:N", or None for anything else.

    Raises
    ------
    BadInput
        N is not a whole number above zero.
    """
    if not text.startswith("hvg:"):
        return None
    number = text.removeprefix("hvg:")
    if not number.isdigit() or int(number) < 1:
        raise BadInput(f"`genes={text!r}`: expected hvg:N with N a whole number above 0, or a text file of genes")
    return int(number)
