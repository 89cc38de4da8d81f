"""Where counts come from: the table of source formats, and `open_source`, which finds the one that a path is of.

A format is a file of this folder with two functions, `recognises(path)` and `open(path, options)`, and a line of
`FORMATS`. Only shapes, obs and var are looked at here; counts are read later, block by block.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_loaders.contents import kind_of
from data_loaders.errors import BadInput, readable
from data_loaders.features.feature_types import take_modality
from data_loaders.features.gene_names import name_features, usable_columns
from data_loaders.hdf5 import CONTENTS, content_of
from data_loaders.sources import anndata, mudata, parquet, soma, table, tenx
from data_loaders.sources.rows import filter_rows
from data_loaders.sources.source import Options, Source
from data_loaders.sources.which import in_words
from data_loaders.tables import read_table
from data_loaders.types import PathLike

NUMBER = r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d+)?"  # no leading zero, and few enough digits for a float to keep
EVERY = ("obs_filter", "round_counts")  # options of all formats


@dataclass(frozen=True)
class Format:
    """A source format.

    Attributes
    ----------
    name, paths : str
        What a source of it is called in messages, and what its path looks like.
    recognises : callable
        Whether a path is of this format.
    open : callable
        Opens such a path.
    takes : tuple of str
        The options of `sources.source.Options` that it knows; others but `EVERY` are refused. A format with
        `obs_filter` filters its cells itself, others are filtered here.
    """

    name: str
    paths: str
    recognises: Callable[[str], bool]
    open: Callable[[str, Options], Source]
    takes: tuple[str, ...] = ()


FORMATS = (  # the first that recognises a path opens it
    Format("an AnnData", ".h5ad file or Zarr store", anndata.recognises, anndata.open, ("layer", "raw")),
    Format("a modality of a MuData", "FILE.h5mu:NAME", mudata.recognises, mudata.open, ("layer", "raw")),
    Format("10x output", ".h5 file or folder with matrix.mtx", tenx.recognises, tenx.open),
    Format("a table of counts", ".csv, .tsv or .txt file", table.recognises, table.open, ("genes_in",)),
    Format(
        "Parquet of cells", ".parquet file, folder or pattern of them", parquet.recognises, parquet.open,
        ("layer", "genes_table"),
    ),
    Format(
        "a SOMA experiment", "folder or URI", soma.recognises, soma.open,
        ("layer", "raw", "organism", "measurement", "obs_filter"),
    ),
)  # fmt: skip


def is_source(path: str) -> bool:
    """Whether a path is of a known format, as far as its name and place tell."""
    return any(known.recognises(path) for known in FORMATS)


def open_source(
    path: PathLike,
    options: Options | None = None,
    *,
    obs_file: PathLike | None = None,
    modality: str = "rna",
    var_names: str | None = None,
) -> Source:
    """Open a source.

    Parameters
    ----------
    path : path-like
    options : Options, optional
        Where its counts are.
    obs_file : path-like, optional
        A table as `data_loaders.tables` reads it, cell names first; its columns are added to obs.
    modality : str
        Where the source tells the types of its features, those of this modality are taken, see
        `features.feature_types`.
    var_names : str, optional
        The column of var with the names of the features; by the rule of `features.gene_names` when left out.

    Returns
    -------
    Source

    Raises
    ------
    BadInput
        When it cannot be used: missing, of no known format, with an option that the format does not know, damaged,
        without counts.
    """
    path, options = str(path), options or Options()
    with readable(path):
        known = next((known for known in FORMATS if known.recognises(path)), None)
    if known is None:
        raise _unrecognised(path)
    _refuse_unknown_options(path, known, options)
    filters_itself = "obs_filter" in known.takes and obs_file is None  # a filter may name columns of the table
    source = known.open(path, options if filters_itself else dataclasses.replace(options, obs_filter=None))
    source.choices = in_words(source.others)
    source.rounding.allowed = options.round_counts
    try:
        take_modality(source, modality)
        source.var, notes = name_features(path, source.var, var_names, number=source.number_names)
        source.notes += notes
        _check(source)
        if obs_file is not None:
            _join_obs(source, obs_file)
        if options.obs_filter is not None and not filters_itself:
            filter_rows(source, options.obs_filter)
    except BadInput:
        source.close()
        raise
    return source


def _unrecognised(path: str) -> BadInput:
    """The error about a path that is of none of the formats."""
    place = Path(path)
    if not place.exists():
        found = "no such file or folder"
    elif place.is_dir():
        found = "a folder without a store or matrix.mtx"
    else:
        content = content_of(place)
        kind = CONTENTS.get(content or "") or kind_of(place)
        found = f"a file ending in {place.suffix!r}" + (f", {kind}" if kind else "")
    return BadInput(f"{path}: {found}; expected {_listed([f'{known.name} ({known.paths})' for known in FORMATS])}")


def _refuse_unknown_options(path: str, known: Format, options: Options) -> None:
    """Refuse options that the format does not take, and say which formats do."""
    for name in options.given():
        if name not in (*known.takes, *EVERY):
            others = _listed([other.name for other in FORMATS if name in other.takes])
            takes = _listed([f"`{option}`" for option in known.takes], "and") or "no such option"
            raise BadInput(f"{path}: `{name}` chooses within {others}; this is {known.name}, which takes {takes}")


def _listed(words: list[str], last: str = "or") -> str:
    """Words as a list in a sentence."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def _check(source: Source) -> None:
    """Refuse shapes that do not fit, sources without cells or genes, and repeated gene names."""
    n_cells, n_features = source.matrix.shape
    if n_cells != len(source.obs) or len(source.features) != len(source.var):
        raise BadInput(
            f"{source.path}: {source.counts_from} is {n_cells} x {n_features}, obs has {len(source.obs)} rows and var "
            f"{len(source.features)}; expected the same numbers"
        )
    if n_cells == 0 or len(source.var) == 0:
        raise BadInput(f"{source.path}: {n_cells} cells x {len(source.var)} genes; expected at least one of each")
    repeated = source.var.index[source.var.index.duplicated()].unique()
    if len(repeated):
        shown = ", ".join(repr(str(name)) for name in repeated[:5])
        raise BadInput(
            f"{source.path}: {len(repeated)} gene names occur more than once, such as {shown}; "
            f"make them unique first (adata.var_names_make_unique()){_unique_columns(source.var)}"
        )


def _unique_columns(var: pd.DataFrame) -> str:
    """The way on by another column of var, for a message."""
    usable = usable_columns(var)
    return f", or take the names of a column that is unique, `var_names={usable[0]!r}`" if usable else ""


def _join_obs(source: Source, obs_file: PathLike) -> None:
    """Add the columns of a table to obs, matched by cell name; cells that it lacks have no value in them."""
    table = read_table(obs_file, names_first=True)
    if table.empty:
        raise BadInput(f"{obs_file}: a table without cells; expected cell names in its first column")
    if table.index.has_duplicates:
        name = table.index[table.index.duplicated()][0]
        raise BadInput(f"{obs_file}: cell {name!r} has more than one row; expected one")
    known = source.obs.index.isin(table.index)
    if not known.any():
        raise BadInput(
            f"{obs_file}: none of its cells is in {source.path}: it has {str(table.index[0])!r}, "
            f"the counts have {str(source.obs.index[0])!r}; expected the same names"
        )
    if not known.all():
        source.notes.append(f"{source.path}: {int((~known).sum()):,} of {len(known):,} cells are not in {obs_file}")
    source.unmatched = table.index[~table.index.isin(source.obs.index)]
    table = table.apply(_numbers).reindex(source.obs.index)
    source.obs = source.obs.drop(columns=[name for name in table if name in source.obs]).join(table)


def _numbers(column: pd.Series) -> pd.Series:
    """A column of text as numbers, NaN where it is empty, if all of it is numbers; as it is otherwise."""
    if not pd.api.types.is_object_dtype(column.dtype) and not pd.api.types.is_string_dtype(column.dtype):
        return column  # of a Parquet file
    if not all(isinstance(value, str) for value in column):
        return column
    filled = column != ""
    if not filled.any() or not column[filled].str.fullmatch(NUMBER).all():
        return column
    return pd.to_numeric(column.where(filled))
