"""The atlas card: what a store holds, as one JSON text in `uns["atlas_card"]`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from data_loaders.errors import BadInput
from data_loaders.identity import StoreId
from data_loaders.records import Record, Whole, parse_json
from data_loaders.types import PathLike

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

FORMAT = 1  # of the card and the store; raised when a reader of the old one would go wrong
SPLITS = ("train", "val", "test")
ACCESSIBILITY = ("atac", "peaks")  # modalities where a count above 1 says little more than 1
PACKAGES = ("cfgen-dist", "anndata", "numpy", "scipy", "zarr")
LATENTS = "latents"  # value of the root attribute `content` in a store of latents
Positive = Annotated[float, Field(gt=0)]


class LabelFacts(Record):
    """What the card says of a label column: three lists of equal length."""

    categories: list[str]
    counts: list[Whole]
    train_counts: list[Whole]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("a category stands there twice")
        if not len(self.categories) == len(self.counts) == len(self.train_counts):
            raise ValueError("categories, counts and train_counts have different lengths")
        if any(train > n for train, n in zip(self.train_counts, self.counts, strict=True)):
            raise ValueError("a category has more training cells than cells")
        return self


class Law(Record):
    """The law of some size factors; without numbers where there are no cells."""

    n_cells: Whole
    mean_log: float | None
    sd_log: Annotated[float, Field(ge=0)] | None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.n_cells and (self.mean_log is None or self.sd_log is None):
            raise ValueError("mean_log and sd_log must be numbers where there are cells")
        return self


class SizeFactors(Law):
    """The law of all training cells, and of each category."""

    min: Positive | None
    max: Positive | None
    by: dict[str, dict[str, Law]]

    @model_validator(mode="after")
    def _has_bounds(self) -> Self:
        if self.n_cells and (self.min is None or self.max is None or self.min > self.max):
            raise ValueError("min and max must be numbers where there are cells, the smaller first")
        return self


class ModalityFacts(Record):
    """What the card says of a modality."""

    n_features: Whole
    nnz: Whole
    density: Annotated[float, Field(ge=0, le=1)]
    largest: Whole
    likelihood: str


class AtlasCard(Record):
    """The form of a card."""

    format: Annotated[int, Field(ge=1)]
    n_cells: Whole
    n_genes: Whole
    nnz: Whole
    density: Annotated[float, Field(ge=0, le=1)]
    labels: dict[str, LabelFacts]
    splits: dict[str, Whole]
    size_factor: SizeFactors
    fingerprint: Annotated[str, Field(min_length=1)]
    id: StoreId | None = None
    sources: list[Any] = Field(default=[])
    options: dict[str, Any] = Field(default={})
    dropped: dict[str, Any] = Field(default={})
    notes: list[str] = Field(default=[])
    modalities: dict[str, ModalityFacts] = Field(default={})
    versions: dict[str, str] = Field(default={})

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.format > FORMAT:
            raise ValueError(f"format {self.format}, expected {FORMAT}: written by a newer version of this program")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits has the keys {', '.join(self.splits)[:60]}, expected {', '.join(SPLITS)}")
        if sum(self.splits.values()) != self.n_cells:
            raise ValueError(f"splits has {sum(self.splits.values()):,} cells in all, but n_cells is {self.n_cells:,}")
        for name, label in self.labels.items():
            if sum(label.counts) > self.n_cells:
                raise ValueError(f"labels.{name} has more cells than n_cells, {self.n_cells:,}")
            if not set(label.categories) <= set(self.size_factor.by.get(name, {})):
                raise ValueError(f"size_factor.by.{name} lacks categories of labels.{name}")
        return self


def build_card(
    *,
    n_cells: int,
    genes: pd.Index,
    nnz: int,
    labels: Mapping[str, Mapping[str, list[Any]]],
    splits: Mapping[str, int],
    size_factor: Mapping[str, Any],
    fingerprint: str,
    identity: str,
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
    identity : str
        The id of the store, see `data_loaders.identity`.
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
        "id": identity,
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
    from data_loaders.reading.checked import open_checked

    path = Path(path)
    try:
        root, _, is_believed = open_checked(path)
        element: Any = root["uns/atlas_card"]
        text = element[()]
    except BadInput:
        raise
    except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: no atlas card in it; expected a store written by `ingest()`") from error
    if not is_believed:
        raise BadInput(
            f"{path}: written anew by another program, so its card holds no more; `ingest()` makes an atlas of it"
        )
    return parse_card(text, path)


def parse_card(text: object, name: object) -> dict[str, Any]:
    """The card as a dict, from the text in the store `name`; BadInput when it is none."""
    card: dict[str, Any] = parse_json(str(text), AtlasCard, f"{name}: its atlas card")
    return card
