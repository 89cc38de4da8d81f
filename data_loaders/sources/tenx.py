"""10x Genomics outputs as sources: HDF5 of Cell Ranger 2 and 3 onwards, and Matrix Market folders.

Genes are named by symbol, as scanpy does; repeated symbols get -1, -2, ...; `var["gene_id"]` keeps the identifiers.
Where types are given, `features.feature_types` chooses those of a modality.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.features.feature_types import canonical
from data_loaders.hdf5 import CONTENTS, check_filters, content_of, content_of_group
from data_loaders.sources import tenx_files
from data_loaders.sources.hdf5 import open_in_hdf5
from data_loaders.sources.matrices import CompressedMatrix, MatrixMarket
from data_loaders.sources.source import Matrix, Options, Source
from data_loaders.types import Array


class Features(NamedTuple):
    """What a 10x output says of its features: arrays of text (n_features,); `kinds` is None where it does not say."""

    ids: Array
    names: Array
    kinds: Array | None


def recognises(path: str) -> bool:
    """Whether a path is an .h5 file or FILE.h5:GENOME, a folder with matrix.mtx, or a sample among others."""
    place = Path(path)
    if place.is_dir():
        return any((place / name).exists() for name in ("matrix.mtx", "matrix.mtx.gz"))
    if place.is_file() and (place.suffix.lower() == ".h5" or content_of(place) == "10x"):
        return True
    file, genome = _file_and_genome(path)
    return Path(file).is_file() if genome else tenx_files.is_sample(path)


def open(path: str, options: Options) -> Source:
    """Open a 10x HDF5 file or folder; it has one matrix, so there are no options."""
    file, genome = _file_and_genome(path)
    if genome or (Path(path).is_file() and not tenx_files.is_sample(path)):
        return open_in_hdf5(file, lambda root: _open_h5(path, root, genome))
    return _open_folder(path)


def _file_and_genome(path: str) -> tuple[str, str]:
    """The parts of FILE.h5:GENOME; of other paths the path, and nothing."""
    file, colon, genome = path.rpartition(":")
    return (file, genome) if colon and file.endswith(".h5") and "/" not in genome else (path, "")


def _open_h5(path: str, root: h5py.File, genome: str = "") -> Source:
    """The source in an open file of Cell Ranger."""
    check_filters(path, root)
    content = content_of_group(root)
    if content not in ("10x", None):
        raise BadInput(f"{path}: {CONTENTS[content]}")
    if genome and ("matrix" in root or genome not in root):
        genomes = [name for name in root if name != "matrix"]
        has = f"no genome {genome!r}; {nearest(genome, genomes)}" if genomes else "one matrix for all genomes"
        raise BadInput(f"{path}: {has}{'' if genomes else '; expected the file alone'}")
    if "matrix" in root:  # Cell Ranger 3 and later
        group = root["matrix"]
        with readable(path):
            features = _of_version_3(group["features"])
    else:
        genomes = [name for name in root if isinstance(root[name], h5py.Group) and "barcodes" in root[name]]
        genomes = [name for name in genomes if genome in ("", name)]
        if len(genomes) > 1:
            choices = " or ".join(f"{path}:{name}" for name in genomes)
            raise BadInput(f"{path}: counts of {len(genomes)} genomes, each in a matrix of its own; expected {choices}")
        if len(genomes) != 1:
            raise BadInput(
                f"{path}: has groups {sorted(root)}; expected 'matrix' (Cell Ranger 3) or one genome (Cell Ranger 2); "
                "an AnnData must end in .h5ad"
            )
        group = root[genomes[0]]
        with readable(path):
            features = Features(_text(group["genes"]), _text(group["gene_names"]), None)
    with readable(path):
        barcodes = _text(group["barcodes"])
        shape = group["shape"][:][::-1]
        data, indices, indptr = (group[part] for part in ("data", "indices", "indptr"))
    matrix = CompressedMatrix(f"{path}: counts", data, indices, indptr, shape, by_row=True)
    return _source(path, matrix, barcodes, features)


def _of_version_3(group: h5py.Group) -> Features:
    """What the features of a file of Cell Ranger 3 are; other programs leave names or types out."""
    ids = _text(group["id"])
    names = _text(group["name"]) if "name" in group else ids
    return Features(ids, names, _text(group["feature_type"]) if "feature_type" in group else None)


def _open_folder(path: str) -> Source:
    """The source in a folder with matrix.mtx, barcodes.tsv and features.tsv or genes.tsv."""
    matrix = MatrixMarket(_member(path, "matrix.mtx"))
    barcodes = _lines(_member(path, "barcodes.tsv"))[0]
    table = _lines(_member(path, "features.tsv", "genes.tsv"))
    ids = np.asarray(table[0])
    names = np.asarray(table[1]) if 1 in table else ids
    kinds = np.asarray(table[2]) if 2 in table and canonical(table[2]) is not None else None  # or a column of others
    turned = matrix.shape == (len(table), len(barcodes)) and len(table) != len(barcodes)
    if turned:
        matrix.turn()
    source = _source(path, matrix, np.asarray(barcodes), Features(ids, names, kinds))
    if turned:
        source.notes.append(f"{path}: the matrix is cells x features, as the numbers of names tell; it was read so")
    return source


def _source(path: str, matrix: Matrix, barcodes: Array, described: Features) -> Source:
    """The source with all features under their symbols."""
    n_features = matrix.shape[1]
    if len(described.names) != n_features:
        raise BadInput(f"{path}: {len(described.names)} features are named, the matrix has {n_features}")
    names = np.where(described.names == "", described.ids, described.names).astype(object)
    var = pd.DataFrame({"gene_id": described.ids}, index=names)
    var.attrs["index"] = "gene_symbol"
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    if obs.index.has_duplicates:
        raise BadInput(f"{path}: barcode {obs.index[obs.index.duplicated()][0]!r} occurs more than once")
    return Source(
        path, obs, var, matrix, np.arange(n_features), counts_from="counts", types=described.kinds, number_names=True
    )


def _text(dataset: h5py.Dataset) -> Array:
    return np.asarray(dataset.asstr()[:])


def _member(path: str, *names: str) -> Path:
    """The file of one of these names in a folder, plain or gzipped, or of a sample by its prefix or matrix."""
    if not Path(path).is_dir():
        return tenx_files.member(path, names[0].split(".")[0])
    for name in names:
        for candidate in (Path(path) / name, Path(path) / f"{name}.gz"):
            if candidate.exists():
                return candidate
    raise BadInput(f"{path}: no {' or '.join(names)} (or .gz) in it; expected a 10x folder")


def _lines(path: Path) -> pd.DataFrame:
    """A table of text without a header."""
    with readable(path):
        return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)
