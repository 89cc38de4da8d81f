"""The atlas card: what a store holds, as one JSON text in `uns["atlas_card"]`."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from data_loaders.errors import BadInput
from data_loaders.types import PathLike

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

FORMAT = 1  # of the card and the store; raised when a reader of the old one would go wrong
SPLITS = ("train", "val", "test")
ACCESSIBILITY = ("atac", "peaks")  # modalities where a count above 1 says little more than 1
PACKAGES = ("cfgen-dist", "anndata", "numpy", "scipy", "zarr")
LATENTS = "latents"  # value of the root attribute `content` in a store of latents


def build_card(
    *,
    n_cells: int,
    genes: pd.Index,
    nnz: int,
    labels: Mapping[str, Mapping[str, list[Any]]],
    splits: Mapping[str, int],
    size_factor: Mapping[str, Any],
    fingerprint: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the facts of a store into the dict that becomes its card.

    Parameters
    ----------
    n_cells, nnz : int
    genes : pandas.Index
    labels : dict
        Label column → {"categories": list of str, "counts": cells per category, "train_counts": training cells}.
    splits : dict
        Cells per split, all of `SPLITS`.
    size_factor : dict
        As `writing.size_factors.SizeFactorSums.summary` returns it.
    fingerprint : str
        Equal for equal cells in equal order, with equal labels and splits.
    provenance : dict
        Written as it is: `sources`, `options`, `dropped`, `notes`, whatever the maker of the store knows.

    Returns
    -------
    dict
        Plain JSON values.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # used from a source tree that was not installed
            continue
    return {
        "format": FORMAT,
        "n_cells": n_cells,
        "n_genes": len(genes),
        "nnz": nnz,
        "density": nnz / max(n_cells * len(genes), 1),
        "labels": labels,
        "splits": {name: splits.get(name, 0) for name in SPLITS},
        "size_factor": size_factor,
        "fingerprint": fingerprint,
        **provenance,
        "versions": versions,
    }


def describe_modality(name: str, *, n_rows: int, n_features: int, nnz: int, largest: int) -> dict[str, Any]:
    """What the card says of a modality in a store that has several.

    Parameters
    ----------
    name : str
    n_rows, n_features, nnz, largest : int
        Of its matrix: the size, the number of non-zeros and the largest of them.

    Returns
    -------
    dict
        n_features, nnz, density, largest count, and the likelihood to model it by unless the user names another:
        `bernoulli` for accessibility and for 0/1 values, `nb` (negative binomial) for the rest.
    """
    binary = name in ACCESSIBILITY or largest <= 1
    return {
        "n_features": n_features,
        "nnz": nnz,
        "density": nnz / max(n_rows * n_features, 1),
        "largest": largest,
        "likelihood": "bernoulli" if binary else "nb",
    }


def read_card(path: PathLike) -> dict[str, Any]:
    """Read the card of an atlas store.

    Raises
    ------
    BadInput
        When `path` is not a store that this project wrote.
    """
    path = Path(path)
    from data_loaders.reading.checked import checked

    try:
        root, _, is_believed = checked(zarr.open_group(path, mode="r"), str(path))
        element: Any = root["uns/atlas_card"]
        text = element[()]
    except BadInput:
        raise
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: no atlas card in it; expected a store written by `ingest()`") from error
    if not is_believed:
        raise BadInput(
            f"{path}: written anew by another program, so its card holds no more; `ingest()` makes an atlas of it"
        )
    try:
        card: dict[str, Any] = json.loads(str(text))
        return card
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: its atlas card is not JSON ({error})") from error
