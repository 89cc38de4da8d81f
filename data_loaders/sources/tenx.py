"""10x Genomics outputs as sources: HDF5 of Cell Ranger 2 and 3 onwards, and Matrix Market folders.

Genes are named by symbol, as scanpy does; repeated symbols get -1, -2, ...; `var["gene_id"]` keeps the identifiers.
Only features of type "Gene Expression" are taken where types are given.
"""

import h5py
import numpy as np
import pandas as pd
from anndata.utils import make_index_unique

from data_loaders.errors import BadInput, readable
from data_loaders.sources.matrices import CompressedMatrix, MatrixMarket

GENES = "Gene Expression"


def open_h5(path):
    """The parts of a `sources.Source` from a 10x HDF5 file."""
    with readable(path):
        root = h5py.File(path, "r")
    try:
        return _read_h5(path, root) | {"file": root}
    except BadInput:
        root.close()
        raise


def _read_h5(path, root):
    if "matrix" in root:  # Cell Ranger 3 and later
        group = root["matrix"]
        with readable(path):
            columns = {name: _text(group[f"features/{name}"]) for name in ("id", "name", "feature_type")}
    else:
        genomes = [name for name in root if isinstance(root[name], h5py.Group) and "barcodes" in root[name]]
        if len(genomes) != 1:
            raise BadInput(
                f"{path}: has groups {sorted(root)}; expected 'matrix' (Cell Ranger 3) or one genome (Cell Ranger 2); "
                "an AnnData must end in .h5ad"
            )
        group = root[genomes[0]]
        with readable(path):
            columns = {"id": _text(group["genes"]), "name": _text(group["gene_names"])}
    with readable(path):
        barcodes = _text(group["barcodes"])
        shape = group["shape"][:][::-1]
        arrays = [group[part] for part in ("data", "indices", "indptr")]
    matrix = CompressedMatrix(f"{path}: counts", *arrays, shape, by_row=True)
    return _parts(path, matrix, barcodes, columns)


def open_folder(path):
    """The parts of a `sources.Source` from a folder with matrix.mtx, barcodes.tsv and features.tsv or genes.tsv."""
    matrix = MatrixMarket(_member(path, "matrix.mtx"))
    barcodes = _lines(_member(path, "barcodes.tsv"))[0]
    features = _lines(_member(path, "features.tsv", "genes.tsv"))
    names = features[1] if 1 in features else features[0]
    columns = {"id": features[0], "name": names}
    if 2 in features:
        columns["feature_type"] = features[2]
    return _parts(path, matrix, np.asarray(barcodes), {name: np.asarray(values) for name, values in columns.items()})


def _parts(path, matrix, barcodes, columns):
    n_features = matrix.shape[1]
    if len(columns["name"]) != n_features:
        raise BadInput(f"{path}: {len(columns['name'])} features are named, the matrix has {n_features}")
    kinds = columns.get("feature_type", np.full(n_features, GENES))
    features = np.flatnonzero(kinds == GENES)
    if len(features) == 0:
        raise BadInput(f"{path}: features of types {sorted(set(kinds))}; expected some of type {GENES!r}")
    notes = []
    if len(features) < n_features:
        notes.append(f"{path}: {n_features - len(features):,} features that are not of type {GENES!r} were left out")
    var = pd.DataFrame({"gene_id": columns["id"][features]}, index=columns["name"][features].astype(object))
    if var.index.has_duplicates:
        notes.append(f"{path}: {int(var.index.duplicated().sum()):,} repeated gene symbols were numbered (-1, -2, ...)")
        var.index = make_index_unique(var.index)
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    if obs.index.has_duplicates:
        raise BadInput(f"{path}: barcode {obs.index[obs.index.duplicated()][0]!r} occurs more than once")
    return {"obs": obs, "var": var, "matrix": matrix, "features": features, "counts_from": "counts", "notes": notes}


def _text(dataset):
    return dataset.asstr()[:]


def _member(path, *names):
    for name in names:
        for candidate in (path / name, path / f"{name}.gz"):
            if candidate.exists():
                return candidate
    raise BadInput(f"{path}: no {' or '.join(names)} (or .gz) in it; expected a 10x folder")


def _lines(path):
    with readable(path):
        return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
