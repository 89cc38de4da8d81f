"""What a label is and what is none: one rule for every obs column that cells are labelled by, in ingest and in streams.

No label are NaN, None, pandas' NA and masked values, text that is empty or white space, and the texts that the user
names. Everything else is a category, by its text; whole numbers that are stored as floats (because of gaps beside them)
are '1', not '1.0'.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput, nearest
from data_loaders.types import Ints

UNLABELLED = ("refuse", "drop", "keep")
DOUBTFUL = ("nan", "na", "n/a", "<na>", "nat", "none", "null", "unknown", "unassigned", "unlabelled", "unlabeled")


def label_codes(
    values: Any, missing_values: Collection[str] = (), *, sort_numbers: bool = False
) -> tuple[Ints, list[str]]:
    """The labels of cells as codes and categories.

    Parameters
    ----------
    values : array (n,), pandas array, Series or Categorical
    missing_values : collection of str
        Texts that are no label either, whatever their case.
    sort_numbers : bool
        Categories of a column of numbers in the order of the numbers, not of their texts. Those of a Categorical keep
        their order.

    Returns
    -------
    codes : signed integers (n,)
        -1 for no label; not copied from a Categorical whose categories stay as they are.
    categories : list of str
    """
    values = values.array if isinstance(values, pd.Series) else values
    ordered = isinstance(values, pd.Categorical)
    if ordered:
        codes, found = values.codes, values.categories
    else:
        codes, found = factorized(values)
    texts = _texts(found)
    no_label = _no_labels(texts, missing_values)
    if ordered:
        names = list(dict.fromkeys(text for text in texts if text not in no_label))
    elif sort_numbers and not any(isinstance(value, str) for value in found):
        names = list(dict.fromkeys(text for _, text in sorted(zip(found, texts, strict=True)) if text not in no_label))
    else:
        names = sorted(set(texts) - no_label)
    if ordered and names == texts:
        return codes, names
    place = {name: code for code, name in enumerate(names)}
    small = np.min_scalar_type(-max(len(names), 1))
    new = np.array([place.get(text, -1) for text in texts] + [-1], small)  # code -1, no value, takes the last entry
    return new[codes], names


def factorized(values: Any) -> tuple[Ints, Any]:
    """Codes of the values of a column, -1 for missing ones, and the distinct values, in order of appearance."""
    pandas_array = isinstance(values, pd.api.extensions.ExtensionArray) and not isinstance(
        values, pd.arrays.NumpyExtensionArray
    )
    codes, found = pd.factorize(values if pandas_array else np.asarray(values))
    return codes, found


def as_label(values: Any, missing_values: Collection[str] = (), *, sort_numbers: bool = False) -> pd.Categorical:
    """As `label_codes`, a Categorical."""
    codes, names = label_codes(values, missing_values, sort_numbers=sort_numbers)
    return pd.Categorical.from_codes(codes, categories=names)


def parse_missing(texts: str | Sequence[str]) -> tuple[str, ...]:
    """The texts that a user calls no label: a list of them, or one text with commas between them."""
    given = texts.split(",") if isinstance(texts, str) else texts
    return tuple(text.strip() for text in given if text.strip())


def check_unlabelled(unlabelled: str) -> None:
    """Raise `BadInput` unless `unlabelled` is one of `UNLABELLED`."""
    if unlabelled not in UNLABELLED:
        raise BadInput(f"`unlabelled={unlabelled!r}`: {nearest(unlabelled, UNLABELLED)}")


def doubtful(label: pd.Categorical) -> dict[str, int]:
    """Categories whose text looks like "no label", with their numbers of cells."""
    cells = np.bincount(label.codes[label.codes >= 0], minlength=len(label.categories))
    texts = zip(label.categories, cells.tolist(), strict=True)
    return {text: n for text, n in texts if n and text.strip().casefold() in DOUBTFUL}


def _texts(found: pd.Index) -> list[str]:
    """Values as text; floats without a fraction as whole numbers, where all floats are such."""
    floats = [value for value in found if isinstance(value, float | np.floating)]
    if not floats or not all(float(value).is_integer() for value in floats):
        return [str(value) for value in found]
    return [str(int(value)) if isinstance(value, float | np.floating) else str(value) for value in found]


def _no_labels(texts: Collection[str], missing_values: Collection[str]) -> set[str]:
    named = {text.strip().casefold() for text in missing_values} | {""}
    return {text for text in texts if text.strip().casefold() in named}
