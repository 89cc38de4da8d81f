"""h5ad files of anndata before 0.7, whose obs and var are compound arrays, shown as newer files have them.

Counts stay where they are. The tables, which are small, are written anew into a file in memory, by anndata itself.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import h5py
import pandas as pd

from data_loaders.errors import DAMAGED, BadInput

TABLES = {"obs": "obs", "var": "var", "raw.var": "raw/var"}  # where they were, where they are now
MATRICES = {"X": "X", "raw.X": "raw/X"}
FORMAT, SHAPE = "h5sparse_format", "h5sparse_shape"  # attributes of sparse matrices
CATEGORIES = "_categories"  # ending of the entries of uns that hold the names of codes


def is_old(root: Any) -> bool:
    """Whether obs or var of an open file is a compound array."""
    return any(isinstance(root.get(key), h5py.Dataset) and root[key].dtype.names is not None for key in TABLES)


class Renewed:
    """An old file as if a newer anndata had written it: obs, var and raw by their new names.

    Parameters
    ----------
    root : h5py.File
        Closed with this.

    Raises
    ------
    BadInput
        When a table cannot be read.
    """

    def __init__(self, root: h5py.File) -> None:
        self._root = root
        self._memory = h5py.File(f"{uuid.uuid4()}.h5", "w", driver="core", backing_store=False)
        self._places: dict[str, Any] = {}
        self.attrs = root.attrs
        self.filename = root.filename
        for old, new in TABLES.items():
            if isinstance(root.get(old), h5py.Dataset):
                self._write(new, _table(root, old))
        for old, new in MATRICES.items():
            if old in root:
                self._places[new] = _Sparse(root[old]) if FORMAT in root[old].attrs else root[old]
        if "raw/X" in self._places or "raw/var" in self._places:
            self._places["raw"] = {
                key: self._places[f"raw/{key}"] for key in ("X", "var") if f"raw/{key}" in self._places
            }

    def _write(self, key: str, table: pd.DataFrame) -> None:
        from anndata.io import write_elem

        write_elem(self._memory, key, table)
        self._places[key] = self._memory[key]

    def __getitem__(self, path: str) -> Any:
        for key, element in self._places.items():
            if path == key:
                return element
            if path.startswith(f"{key}/") and path not in self._places and isinstance(element, h5py.Group):
                return element[path.removeprefix(f"{key}/")]
        return self._root[path]

    def __contains__(self, path: str) -> bool:
        try:
            self[path]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._root, *(key for key in self._places if "/" not in key)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def keys(self) -> list[str]:
        """Names of the elements."""
        return list(self)

    def get(self, path: str, default: Any = None) -> Any:
        """An element, or `default`."""
        return self[path] if path in self else default  # noqa: SIM401 - this is `get`

    def close(self) -> None:
        """Close the file."""
        self._memory.close()
        self._root.close()


class _Sparse:
    """A sparse matrix with the attributes that newer files have."""

    def __init__(self, group: h5py.Group) -> None:
        kind = group.attrs[FORMAT]
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        self._group, self.name = group, group.name
        self.attrs = {"encoding-type": f"{kind}_matrix", "shape": group.attrs[SHAPE]}

    def __getitem__(self, path: str) -> Any:
        return self._group[path]

    def __contains__(self, path: str) -> bool:
        return path in self._group


def _table(root: h5py.File, key: str) -> pd.DataFrame:
    """A compound array as a table, its codes replaced by the categories in uns."""
    from anndata._io.h5ad import read_dataframe

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the format is old
            table = read_dataframe(root[key])
    except Exception as error:  # whatever the bytes make anndata stumble over
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{root.filename}: {key} cannot be read, {DAMAGED} ({reason})") from error
    table.index = table.index.astype(str)
    uns = root.get("uns")
    for name in [] if uns is None or (key != "obs" and key != "var") else list(uns):
        column = name.removesuffix(CATEGORIES)
        if name == column or column not in table or table[column].dtype.kind not in "iu":
            continue
        categories = _texts(uns[name][()])
        codes = table[column].to_numpy()
        if (
            codes.max(initial=-1) < len(categories)
            and codes.min(initial=0) >= -1
            and len(set(categories)) == len(categories)
        ):
            table[column] = pd.Categorical.from_codes(codes, categories)
    return table


def _texts(values: Any) -> list[str]:
    """Categories as text; a single one may stand alone."""
    values = [values] if isinstance(values, bytes | str) or getattr(values, "shape", None) == () else list(values)
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
