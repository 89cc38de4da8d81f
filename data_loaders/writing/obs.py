"""Obs columns written as they come, in AnnData's dataframe encoding, without holding them."""

import numpy as np
import pandas as pd

from data_loaders.writing.arrays import ArrayAppender, write_small

ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
TEXT = {"encoding-type": "string-array", "encoding-version": "0.2.0"}


class ObsWriter:
    """Append DataFrame slices with the same columns to a Zarr group.

    The first slice fixes the columns. Categorical slices may bring new categories; they are numbered in the order of
    their first appearance. Numbers keep the type of the first slice.
    """

    def __init__(self, group):
        self.group = group
        self._columns = None
        self._numbers = {}  # categorical column -> {category: code}

    def append(self, obs):
        """Add a slice and return its codes {categorical column: int64 (n,)}; -1 is a missing value."""
        if self._columns is None:
            self._create(obs)
        elif list(obs.columns) != [name for name in self._columns if name != "_index"]:
            raise ValueError(f"obs columns changed from {list(self._columns)[1:]} to {list(obs.columns)}")
        self._columns["_index"].append(obs.index.to_numpy(dtype=object))
        codes = {}
        for name in obs.columns:
            if name in self._numbers:
                codes[name] = self._append_codes(name, obs[name])
            else:
                self._columns[name].append(obs[name].to_numpy())
        return codes

    def categories(self, name):
        """Category names of a column, in the order of their codes."""
        return list(self._numbers[name])

    def close(self):
        """Write what is pending, the categories and AnnData's attributes."""
        if self._columns is None:
            self._create(pd.DataFrame(index=pd.Index([], dtype=object)))
        for column in self._columns.values():
            column.close()
        for name in self._numbers:
            write_small(self.group[name], "categories", np.array(self.categories(name), dtype=object))
        attributes = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
        self.group.attrs.update(attributes | {"column-order": [name for name in self._columns if name != "_index"]})

    def _create(self, obs):
        self._columns = {"_index": ArrayAppender(self.group, "_index", str, attributes=TEXT)}
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

    def _append_codes(self, name, column):
        numbers = self._numbers[name]
        for category in column.cat.categories:
            numbers.setdefault(str(category), len(numbers))
        widest = np.min_scalar_type(-max(len(numbers), 1))  # signed, as AnnData expects
        if widest.itemsize > self._columns[name].dtype.itemsize:
            self._columns[name].promote(widest)
        translate = np.array([numbers[str(category)] for category in column.cat.categories] + [-1], np.int64)
        codes = translate[column.cat.codes.to_numpy()]  # code -1, a missing value, takes the last entry
        self._columns[name].append(codes)
        return codes
