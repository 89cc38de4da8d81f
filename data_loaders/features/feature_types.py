"""Feature types: which features of a file belong to which modality.

Files of 10x Genomics, and what is made of them, may hold several kinds of features side by side and say in a column of
which type each is. `TYPES` is the one table of types, of the spellings of others, and of the modalities that take them.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput
from data_loaders.sources.source import Source
from data_loaders.types import Array, Ints

GENES = "Gene Expression"


class FeatureType(NamedTuple):
    """A type: its name in 10x files, how others spell it in such a column, and the modalities that take it."""

    name: str
    spellings: tuple[str, ...]
    modalities: tuple[str, ...]


TYPES = (  # names are compared without case, blanks and punctuation; the first modality is the one that notes propose
    FeatureType(GENES, ("gex", "rna", "gene", "genes"), ("rna", "gex", "gene_expression")),
    FeatureType("Peaks", ("peak", "atac"), ("atac", "peaks", "peak", "chromatin", "accessibility")),
    FeatureType(
        "Antibody Capture",
        ("antibody", "antibodies", "adt", "prot", "protein", "proteins"),
        ("adt", "prot", "protein", "proteins", "antibody", "antibodies", "ab", "surface", "hto", "hashtag", "hashtags"),
    ),
    FeatureType(
        "CRISPR Guide Capture",
        ("crispr", "guide", "guides", "grna", "sgrna"),
        ("crispr", "grna", "grnas", "sgrna", "sgrnas", "guide", "guides", "guide_rna", "perturbation"),
    ),
    FeatureType("Multiplexing Capture", ("hto", "cmo", "hashtag"), ("hto", "cmo", "hashtag", "hashtags")),
    FeatureType("Antigen Capture", ("antigen",), ("antigen", "antigens", "beam")),
    FeatureType("Custom", (), ("custom",)),
)  # fmt: skip
SHOWN = 3  # files, in notes
COLUMNS = ("feature_types", "feature_type", "modality", "modalities", "library_type", "feature_class")  # of var


def key(name: object) -> str:
    """A name without case, blanks and punctuation."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


OWN = {key(known.name): known.name for known in TYPES}
SPELLED = {key(word): known.name for known in TYPES for word in known.spellings} | OWN


def canonical(values: Array | pd.Series) -> Array | None:
    """Types of features by the names of `TYPES`; what the table does not know stays as it is.

    Parameters
    ----------
    values : array (n_features,)
        A column that may hold types.

    Returns
    -------
    object array (n_features,) of str, or None
        None where the values are something else: types have a name of 10x among them, or two types in any spelling, or
        a type in any spelling and nothing else. (Biotypes such as `protein_coding` are no types.)
    """
    column = pd.Series(np.asarray(values, object)).fillna("").astype(str)
    words = {word: SPELLED.get(key(word)) for word in column.unique()}
    found = {name for name in words.values() if name is not None}
    if not found or not (len(found) > 1 or None not in words.values() or any(key(word) in OWN for word in words)):
        return None
    return np.asarray(column.map({word: name or word for word, name in words.items()}), object)


def types_of(var: pd.DataFrame) -> Array | None:
    """The types that a table of features says, object array (n_features,); None where it does not.

    The first of `COLUMNS` with several types is taken, else the first with one.
    """
    order = [name for wanted in COLUMNS for name in var if key(name) == key(wanted)]
    told = [types for name in order if (types := canonical(var[name])) is not None]
    return next((types for types in told if len(set(types)) > 1), told[0] if told else None)


class Taken(NamedTuple):
    """Positions of the features of a modality, and how many of which other types there are."""

    features: Ints
    left_out: dict[str, int]


def columns_of(path: str, var: pd.DataFrame, modality: str, types: Array | None = None) -> Taken | None:
    """The features that belong to a modality.

    Parameters
    ----------
    path : str
        For messages.
    var : pandas.DataFrame
        All features.
    modality : str
        A name of `TYPES`, or the name of a type.
    types : array (n_features,) of str, optional
        Where the format has a place for them; by the columns of var when left out.

    Returns
    -------
    Taken or None
        None where all features are meant: nothing says of which types they are, or they are of one type and the
        modality has a name of the user's own.

    Raises
    ------
    BadInput
        None of the features is of the modality's type, or there are several types and the modality names none.
    """
    told = types_of(var) if types is None else canonical(types)
    if told is None and types is None:
        return None
    told = np.asarray(types, object) if told is None else told
    counts = pd.Series(told).value_counts(sort=False)
    wanted = _wanted(modality, list(counts.index))
    if not wanted and len(counts) == 1:
        return None
    wanted = wanted or _wanted_by_a_word(modality)
    mine = next((name for name in wanted if name in counts), None)
    if mine is None:
        raise BadInput(f"{path}: features of {_listed(counts)}; {_expected(modality, wanted, list(counts.index))}")
    return Taken(np.flatnonzero(told == mine), {str(name): int(n) for name, n in counts.items() if name != mine})


def take_modality(source: Source, modality: str) -> None:
    """Leave a source the features of one modality, and note in `source.left_out` how many of which types are not.

    A source that does not tell the types of its features keeps all of them; `BadInput` as of `columns_of`.
    """
    taken = columns_of(source.path, source.var, modality, source.types)
    if taken is not None and taken.left_out:
        source.left_out = taken.left_out
        source.var, source.features = source.var.iloc[taken.features], source.features[taken.features]


def _wanted(modality: str, found: Sequence[str]) -> list[str]:
    """The types that a modality takes, best first: those of the table, or one that has its name."""
    listed = [known.name for known in TYPES if key(modality) in map(key, known.modalities)]
    listed.sort(key=lambda name: SPELLED.get(key(modality)) != name)
    return listed or [name for name in found if key(name) == key(modality)]


def _wanted_by_a_word(modality: str) -> list[str]:
    """The types that one word of a name stands for, as `atac` does in `atac_10x`; none where words disagree."""
    words = [_wanted(word, ()) for word in re.split(r"[-_]", modality)]
    found = [types for types in words if types]
    return found[0] if all(types == found[0] for types in found[1:]) and found else []


def _listed(counts: pd.Series) -> str:
    return ", ".join(f"type {name!r} ({n:,})" for name, n in counts.items())


def _expected(modality: str, wanted: Sequence[str], found: Sequence[str]) -> str:
    """What a modality needs, and which modalities would take what was found."""
    ways = " and ".join(f"{modality_of(name)}=PATH for {name!r}" for name in found if name)
    if wanted:
        return f"modality {modality!r} takes those of type {' or '.join(map(repr, wanted))}; expected {ways}"
    return f"modality {modality!r} is no name that chooses among them; expected {ways}"


def modality_of(type_name: str) -> str:
    """The name of the modality that takes a type."""
    known = next((known.modalities[0] for known in TYPES if known.name == type_name), None)
    return known or re.sub(r"[^A-Za-z0-9]+", "_", type_name).strip("_") or "no modality"


def refuse_copies(sources: Mapping[str, Sequence[Source]]) -> None:
    """Refuse a file from which two modalities would get the same features.

    Parameters
    ----------
    sources : dict of str to list of Source
        Modality → its sources, opened.

    Raises
    ------
    BadInput
        Naming the file and the two modalities.
    """
    seen: dict[object, list[tuple[str, Source]]] = {}
    for modality, opened in sources.items():
        for source in opened:
            others = seen.setdefault(_place(source.path), [])
            for other, first in others:
                if len(np.intersect1d(first.features, source.features, assume_unique=True)):
                    told = "both take the same type"
                    if source.types is None and types_of(source.var) is None:
                        told = f"it does not say of which type its features are (var[{COLUMNS[0]!r}])"
                    raise BadInput(
                        f"{source.path}: given for modality {other!r} and for {modality!r}, which would get the same "
                        f"features: {told}; expected a type of features for each, or a file for each"
                    )
            others.append((modality, source))


def left_out_notes(sources: Mapping[str, Sequence[Source]]) -> list[str]:
    """Notes on files of whose features some are in no modality: how many of which type, and how to get them.

    Parameters
    ----------
    sources : dict of str to list of Source
        Modality → its sources, opened.

    Returns
    -------
    list of str
        One for each file, or a single one where there are many.
    """
    by_place: dict[object, list[tuple[str, Source]]] = {}
    for modality, opened in sources.items():
        for source in opened:
            by_place.setdefault(_place(source.path), []).append((modality, source))
    files = []
    for uses in by_place.values():
        first = uses[0][1]
        left = {name: n for name, n in first.left_out.items() if all(name in source.left_out for _, source in uses)}
        if left:
            files.append((first.path, left, [modality for modality, _ in uses]))
    if len(files) <= SHOWN:
        return [_left_out_note(*file) for file in files]
    sums: Counter[str] = Counter()
    for _, left, _ in files:
        sums.update(left)
    modalities = list(dict.fromkeys(modality for _, _, several in files for modality in several))
    return [_left_out_note(f"{files[0][0]} and {len(files) - 1:,} more, in sum", dict(sums), modalities)]


def _left_out_note(path: str, left: Mapping[str, int], modalities: Sequence[str]) -> str:
    """The note on a file that these modalities are taken from."""
    ways = " and ".join(f"{modality_of(name)}=PATH" for name in left if name)
    also = f"; the same file given as {ways} too, beside rna=PATH, gives each modality its own" if ways else ""
    return f"{path}: {left_out(left, modalities)}{also}"


def left_out(left: Mapping[str, int], modalities: Sequence[str]) -> str:
    """How many features of which types these modalities left out, in words."""
    which = f"that are not of type {GENES!r} " if modalities == ["rna"] else ""
    parts = ", ".join(f"{n:,} {name or 'without a type'}" for name, n in left.items())
    return f"{sum(left.values()):,} features {which}were left out ({parts})"


def _place(path: str) -> object:
    """What two paths to the same file have in common, links included."""
    file, colon, inside = path.partition(".h5mu:")
    local = Path((file + ".h5mu" if colon else file).removeprefix("file://"))
    if not local.exists():
        return path
    status = os.stat(local)
    return status.st_dev, status.st_ino, inside
