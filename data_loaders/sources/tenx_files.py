"""Where the files of a 10x sample are: alone in a folder, with a prefix beside other samples, or in a run's `outs`.

Files of one sample have the same name but for the word that says what they hold: `GSM100_A_matrix.mtx.gz`,
`GSM100_A_barcodes.tsv.gz`, `GSM100_A_genes.tsv.gz`, or `matrix_A.mtx`, `barcodes_A.tsv`, `features_A.tsv`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_loaders.errors import BadInput

MATRIX, BARCODES, FEATURES = "matrix", "barcodes", "features"
WORDS = {
    MATRIX: MATRIX, "counts": MATRIX, "count": MATRIX, "barcodes": BARCODES, "barcode": BARCODES, "cells": BARCODES,
    "features": FEATURES, "feature": FEATURES, "genes": FEATURES, "gene": FEATURES,
}  # fmt: skip
ENDINGS = re.compile(r"\.(mtx|tsv|txt)(\.gz)?$", re.IGNORECASE)
FILTERED = (  # what a run of Cell Ranger, Space Ranger or STARsolo leaves for the cells it has called, best first
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "sample_filtered_feature_bc_matrix.h5",
    "sample_filtered_feature_bc_matrix",
    "filtered_gene_bc_matrices_h5.h5",
    "filtered_gene_bc_matrices/*",
    "filtered_peak_bc_matrix.h5",
    "filtered_peak_bc_matrix",
    "count/sample_filtered_feature_bc_matrix.h5",
    "count/sample_filtered_feature_bc_matrix",
    "per_sample_outs/*/count/sample_filtered_feature_bc_matrix.h5",
    "per_sample_outs/*/count/sample_filtered_feature_bc_matrix",
    "per_sample_outs/*/sample_filtered_feature_bc_matrix.h5",
    "Gene/filtered",
    "Solo.out/Gene/filtered",
)
RAW = ("raw_feature_bc_matrix.h5", "raw_feature_bc_matrix", "raw_gene_bc_matrices_h5.h5", "raw_peak_bc_matrix.h5")


class Part(NamedTuple):
    """What the name of a file says: the sample, in one spelling, and what it holds of it."""

    sample: str
    holds: str


def part_of(file: Path) -> Part | None:
    """What a file name says, None if it is of no 10x file."""
    ending = ENDINGS.search(file.name)
    if ending is None:
        return None
    is_matrix = ending[1].lower() == "mtx"
    words = _words(file.name[: ending.start()])
    known = [i for i, word in enumerate(words) if (WORDS.get(word.lower()) == MATRIX) == is_matrix]
    known = [i for i in known if word_of(words[i])]
    if known:
        at = known[-1]
        return Part("_".join(words[:at] + words[at + 1 :]), word_of(words[at]))
    return Part("_".join(words), MATRIX) if is_matrix else None


def word_of(word: str) -> str:
    """What a word in a file name stands for, or an empty text."""
    return WORDS.get(word.lower(), "")


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[._-]+", text) if word]


def samples(folder: Path) -> list[str]:
    """Names of the samples whose matrices lie in a folder, sorted."""
    parts = [part_of(file) for file in sorted(folder.iterdir()) if file.is_file()]
    return list(dict.fromkeys(part.sample for part in parts if part is not None and part.holds == MATRIX))


def is_sample(path: str) -> bool:
    """Whether a path is a matrix file of a sample, or the prefix that its files share."""
    place = Path(path)
    if place.is_file():
        part = part_of(place)
        return part is not None and part.holds == MATRIX
    if place.exists() or not place.parent.is_dir() or not _words(place.name):
        return False
    return "_".join(_words(place.name)) in samples(place.parent)


def member(path: str, holds: str) -> Path:
    """The file of a sample that holds its matrix, barcodes or features.

    Parameters
    ----------
    path : str
        As `is_sample` takes it.
    holds : str
        `matrix`, `barcodes` or `features`.

    Raises
    ------
    BadInput
        When there is none, or more than one.
    """
    place = Path(path)
    if place.is_file() and holds == MATRIX:
        return place
    part = part_of(place) if place.is_file() else None
    sample = part.sample if part is not None else "_".join(_words(place.name))
    beside = [(file, part_of(file)) for file in sorted(place.parent.iterdir()) if file.is_file()]
    held = [(file, part) for file, part in beside if part is not None and part.holds == holds]
    found = [file for file, part in held if part.sample == sample]
    if not found and holds == FEATURES and len(held) == 1:  # one list of genes for all samples of a series
        found = [held[0][0]]
    if len(found) == 1:
        return found[0]
    expected = f"{sample}_{'features.tsv (or genes.tsv)' if holds == FEATURES else f'{holds}.tsv'}, plain or .gz"
    what = f"{', '.join(file.name for file in found)} beside it" if found else f"no {holds} file beside it"
    raise BadInput(f"{path}: {what}; expected one, {expected}")


def of_run(folder: Path) -> list[str]:
    """The matrices of the called cells in the folder of a run: one, or one for each sample; none if it is no run.

    Raises
    ------
    BadInput
        When only matrices of all barcodes are there.
    """
    for place in (folder, folder / "outs"):
        for pattern in FILTERED:
            found = [str(path) for path in sorted(place.glob(pattern)) if path.suffix == ".h5" or _is_folder(path)]
            if len(found) > 1 and pattern == "filtered_gene_bc_matrices/*":
                raise BadInput(f"{folder}: matrices of several genomes; expected one of {_listed(found)}")
            if found:
                return found
        raw = [str(place / name) for name in RAW if (place / name).exists()]
        if raw:
            raise BadInput(f"{folder}: only the matrix of all barcodes, called or not; give {raw[0]} if that is meant")
    return []


def _is_folder(path: Path) -> bool:
    return any((path / name).exists() for name in ("matrix.mtx", "matrix.mtx.gz"))


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths)
