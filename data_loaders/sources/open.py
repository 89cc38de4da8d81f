"""Where counts come from: h5ad files, AnnData-Zarr stores, 10x files and folders, SOMA experiments.

`open_source` looks only at shapes, obs and var; counts are read later, block by block.
"""

from pathlib import Path

import pandas as pd

from data_loaders.errors import BadInput, readable
from data_loaders.reading.soma_store import is_soma
from data_loaders.sources import anndata, mudata, soma, tenx
from data_loaders.sources.source import Source

NUMBER = r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d+)?"  # no leading zero, and few enough digits for a float to keep
KINDS = "an .h5ad or .h5mu file, an AnnData-Zarr store, a 10x .h5 file, a folder with matrix.mtx or a SOMA experiment"


def open_source(path, *, layer=None, raw=False, obs_file=None, measurement=None, obs_filter=None):
    """Open a source.

    Parameters
    ----------
    path : path-like
    layer : str, optional
        Take the counts from this layer of an AnnData, or this X layer of a SOMA experiment.
    raw : bool
        Take the counts from `raw`; AnnData only.
    obs_file : path-like, optional
        CSV or TSV table with cell names in the first column; its columns are added to obs.
    measurement, obs_filter : str, optional
        Of a SOMA experiment: which measurement, and a value filter that chooses the cells.

    Returns
    -------
    Source

    Raises
    ------
    BadInput
        When it cannot be used: missing, of no known kind, damaged, without counts.
    """
    place = Path(path)
    if is_soma(path) or "://" in str(path):
        parts = soma.open_soma(path, layer, raw, measurement, obs_filter)
        return _finished(Source(str(path), **parts), obs_file)
    if measurement is not None or obs_filter is not None:
        option = "--measurement" if measurement is not None else "--obs-filter"
        raise BadInput(f"{path}: {option} chooses within a SOMA experiment, which this is not")
    if mudata.is_modality(path):
        return _finished(Source(str(path), **mudata.open_modality(path, layer, raw)), obs_file)
    with readable(path):
        exists = place.exists()
    if not exists:
        raise BadInput(f"{path}: no such file or folder; expected {KINDS}")
    if place.is_dir() and any((place / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        parts = anndata.open_zarr(place, layer, raw)
    elif place.is_dir() and any((place / name).exists() for name in ("matrix.mtx", "matrix.mtx.gz")):
        _refuse_element(path, layer, raw)
        parts = tenx.open_folder(place)
    elif place.is_file() and place.suffix == ".h5ad":
        parts = anndata.open_h5ad(place, layer, raw)
    elif place.is_file() and place.suffix == ".h5":
        _refuse_element(path, layer, raw)
        parts = tenx.open_h5(place)
    else:
        found = "a folder without a store or matrix.mtx" if place.is_dir() else f"a file ending in {place.suffix!r}"
        raise BadInput(f"{path}: {found}; expected {KINDS}")
    return _finished(Source(str(path), **parts), obs_file)


def _finished(source, obs_file):
    """The source, checked and with the columns of the table."""
    try:
        _check(source)
        if obs_file is not None:
            _join_obs(source, obs_file)
    except BadInput:
        source.close()
        raise
    return source


def _refuse_element(path, layer, raw):
    if layer is not None or raw:
        raise BadInput(f"{path}: --layer and --raw choose among the matrices of an AnnData; a 10x source has one")


def _check(source):
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
            "make them unique first (adata.var_names_make_unique())"
        )


def _join_obs(source, obs_file):
    """Add the columns of a table to obs, matched by cell name."""
    separator = "\t" if ".tsv" in Path(obs_file).name else ","
    try:
        table = pd.read_csv(obs_file, sep=separator, dtype=str, keep_default_na=False)  # "01" and "NA" are names too
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{obs_file}: cannot be read as a table ({error})") from error
    if table.empty:
        raise BadInput(f"{obs_file}: a table without cells; expected cell names in its first column")
    if isinstance(table.index, pd.RangeIndex):  # pandas takes the names itself where the header has no word for them
        table = table.set_index(table.columns[0])
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
        source.notes.append(f"{source.path}: {int((~known).sum()):,} cells are not in {obs_file}")
    table = table.apply(_numbers).reindex(source.obs.index)
    source.obs = source.obs.drop(columns=[name for name in table if name in source.obs]).join(table)


def _numbers(column):
    """A column of text as numbers, NaN where it is empty, if all of it is numbers; as it is otherwise."""
    filled = column != ""
    if not filled.any() or not column[filled].str.fullmatch(NUMBER).all():
        return column
    return pd.to_numeric(column.where(filled))
