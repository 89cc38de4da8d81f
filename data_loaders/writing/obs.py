"""Obs columns written as they come, in AnnData's dataframe encoding, without holding them."""

import numpy as np
import pandas as pd
import zarr

from data_loaders.types import Ints
from data_loaders.writing.arrays import ArrayAppender, write_small

ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
TEXT = {"encoding-type": "string-array", "encoding-version": "0.2.0"}


class ObsWriter:
    """Append DataFrame slices with the same columns to a Zarr group.

    The first slice fixes the columns. Categorical slices may bring new categories; they are numbered in the order of
    their first appearance. Numbers keep the type of the first slice.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        self._index: ArrayAppender | None = None
        self._columns: dict[str, ArrayAppender] = {}
        self._numbers: dict[str, dict[str, int]] = {}  # categorical column -> {category: code}

    def append(self, obs: pd.DataFrame) -> dict[str, Ints]:
        """Add a slice and return its codes {categorical column: int64 (n,)}; -1 is a missing value."""
        index = self._index or self._create(obs)
        if list(obs.columns) != list(self._columns):
            raise ValueError(f"obs columns changed from {list(self._columns)} to {list(obs.columns)}")
        index.append(obs.index.to_numpy(dtype=object))
        codes = {}
        for name in obs.columns:
            if name in self._numbers:
                codes[name] = self._append_codes(name, obs[name])
            else:
                self._columns[name].append(obs[name].to_numpy())
        return codes

    def categories(self, name: str) -> list[str]:
        """Category names of a column, in the order of their codes."""
        return list(self._numbers[name])

    def close(self) -> None:
        """Write what is pending, the categories and AnnData's attributes."""
        index = self._index or self._create(pd.DataFrame(index=pd.Index([], dtype=object)))
        for column in (index, *self._columns.values()):
            column.close()
        for name in self._numbers:
            categories = np.array(self.categories(name), dtype=object)
            write_small(self.group.require_group(name), "categories", categories)
        attributes = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
        self.group.attrs.update(attributes | {"column-order": list(self._columns)})

    def _create(self, obs: pd.DataFrame) -> ArrayAppender:
        """Begin the columns of `obs`; returns the index."""
        self._index = ArrayAppender(self.group, "_index", str, attributes=TEXT)
        for name in obs.columns:
            if isinstance(obs[name].dtype, pd.CategoricalDtype):
                self._numbers[name] = {}
                group = self.group.create_group(name)
                group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
                self._columns[name] = ArrayAppender(group, "codes", np.int8, attributes=ARRAY)
            elif obs[name].dtype.kind in "biuf":
                self._columns[name] = ArrayAppender(self.group, name, obs[name].dtype, attributes=ARRAY)
            else:
                self._columns[name] = ArrayAppender(self.group, name, str, attributes=TEXT)
        return self._index

    def _append_codes(self, name: str, column: pd.Series) -> Ints:
        """Add a categorical column, its codes renumbered to the categories of the store."""
        numbers = self._numbers[name]
        for category in column.cat.categories:
            numbers.setdefault(str(category), len(numbers))
        widest = np.min_scalar_type(-max(len(numbers), 1))  # signed, as AnnData expects
        if widest.itemsize > self._columns[name].dtype.itemsize:
            self._columns[name].promote(widest)
        translate = np.array([numbers[str(category)] for category in column.cat.categories] + [-1], np.int64)
        codes: Ints = translate[column.cat.codes.to_numpy()]  # code -1, a missing value, takes the last entry
        self._columns[name].append(codes)
        return codes
