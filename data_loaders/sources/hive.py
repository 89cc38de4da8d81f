"""Columns that the folders of Parquet parts stand for: `donor=A/part-0.parquet`, as Spark, Hive and pyarrow do."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

from data_loaders.errors import BadInput

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def is_partition(folder: Path) -> bool:
    """Whether a folder is named COLUMN=VALUE."""
    column, sign, _ = folder.name.partition("=")
    return bool(column and sign) and not column.startswith((".", "_"))


def partitions(file: Path) -> dict[str, str | None]:
    """Column → value of the folders that a file is in, the outermost first; None for no value."""
    found: list[tuple[str, str | None]] = []
    for folder in file.absolute().parents:
        if not is_partition(folder):
            break
        column, _, value = folder.name.partition("=")
        found.append((unquote(column), None if value == NO_VALUE else unquote(value)))
    return dict(reversed(found))


def outside(file: Path) -> Path:
    """The folder that the folders COLUMN=VALUE of a file are in."""
    return next(folder for folder in file.parents if not is_partition(folder))


def add_partitions(path: str, obs: pd.DataFrame, files: Sequence[Path], n_cells: Sequence[int]) -> list[str]:
    """Add the columns that the folders of the files stand for.

    Parameters
    ----------
    path : str
        Of the source, for messages.
    obs : pandas.DataFrame
        The cells of all files; changed.
    files, n_cells : list of Path, list of int
        Each file, and its number of cells.

    Returns
    -------
    list of str
        What to note of it.

    Raises
    ------
    BadInput
        The files are in folders of other columns, or have such a column themselves with other values.
    """
    of_files = [partitions(file) for file in files]
    columns = list(dict.fromkeys(name for facts in of_files for name in facts))
    for name in columns:
        lacking = [str(file) for file, facts in zip(files, of_files, strict=True) if name not in facts]
        if lacking:
            raise BadInput(
                f"{lacking[0]}: in no folder {name}=VALUE, as other parts of {path} are; expected like parts"
            )
        values = pd.Series(np.repeat(np.array([facts[name] for facts in of_files], dtype=object), n_cells))
        if name in obs:
            same = (obs[name].astype(object).astype(str).to_numpy() == values.astype(str).to_numpy()) | (
                obs[name].isna().to_numpy() & values.isna().to_numpy()
            )
            if not same.all():
                row = int(np.flatnonzero(~same)[0])
                file = files[int(np.searchsorted(np.cumsum(n_cells), row, side="right"))]
                raise BadInput(
                    f"{file}: column {name!r} has {str(obs[name].iloc[row])!r}, its folder says {values[row]!r}; "
                    "expected the same in both, or the column in one of them"
                )
            continue
        obs[name] = pd.Categorical(values)
    return [f"{path}: columns of its folders: {', '.join(map(repr, columns))}"] if columns else []
