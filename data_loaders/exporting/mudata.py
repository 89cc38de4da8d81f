"""An h5mu file (MuData) of a store with several modalities, in slices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem, write_elem

from data_loaders.errors import BadInput
from data_loaders.ingestion.modalities import MAIN
from data_loaders.reading.anndata_store import AnnDataStore
from data_loaders.types import Ints

SIGNATURE = b"MuData (format-version=0.1.0;creator=cfgen-dist)".ljust(512, b"\0")  # mudata looks for it


def write_h5mu(source: zarr.Group, built: Path, name: str, copy: Callable[[zarr.Group, Any, str, str], None]) -> None:
    """Write the store as MuData: each modality is an AnnData with its own obs columns.

    Parameters
    ----------
    source : zarr.Group
        AnnData-Zarr.
    built : Path
        The file to write.
    name : str
        The store's path, for messages.
    copy : callable
        `copy(source, target, key, name)` copies a matrix in slices.

    Raises
    ------
    BadInput
        The store has one modality only, or does not name the features of one.
    """
    store = AnnDataStore(source, None, name)
    modalities = list(store.readers)
    if modalities[1:] == [] or modalities[0] != MAIN:
        raise BadInput(
            f"{name}: has modality {modalities[0]!r} only; expected several for h5mu (`to='h5ad'` takes one)"
        )
    tables = {MAIN: store.var()} | {modality: store.features(modality) for modality in modalities[1:]}
    unnamed = [modality for modality, table in tables.items() if table is None]
    if unnamed:
        raise BadInput(f"{name}: the features of modality {unnamed[0]!r} have no names; expected uns['features']")
    obs = read_elem(source["obs"])
    depth = {modality: "size_factor" if modality == MAIN else f"size_factor_{modality}" for modality in modalities}
    common = obs.drop(columns=[column for column in depth.values() if column in obs])
    with h5py.File(built, "w", userblock_size=len(SIGNATURE)) as target:
        target.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
        write_elem(target, "obs", common)
        write_elem(target, "var", _joined_names(tables))
        for part in ("obsm", "varm", "obsp", "varp", "uns"):
            write_elem(target, part, {"atlas_card": store.uns("atlas_card") or ""} if part == "uns" else {})
        everywhere = np.arange(1, len(obs) + 1)
        write_elem(target, "obsmap", dict.fromkeys(modalities, everywhere))
        write_elem(target, "varmap", _places(tables))
        target.create_group("mod").attrs["mod-order"] = modalities
        for modality, var in tables.items():
            group = target.create_group(f"mod/{modality}")
            group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            copy(source, group, "X" if modality == MAIN else f"obsm/{modality}", "X")
            size_factor = {"size_factor": obs[depth[modality]]} if depth[modality] in obs else {}
            write_elem(group, "obs", (common if modality == MAIN else common.iloc[:, :0]).assign(**size_factor))
            write_elem(group, "var", var)
            for part in ("obsm", "varm", "obsp", "varp", "uns", "layers"):
                write_elem(group, part, {})
    with open(built, "r+b") as file:
        file.write(SIGNATURE)


def _joined_names(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The table of all features without columns; a name that two modalities have stays twice, as in mudata."""
    return pd.DataFrame(index=np.concatenate([table.index.to_numpy(dtype=object) for table in tables.values()]))


def _places(tables: dict[str, pd.DataFrame]) -> dict[str, Ints]:
    """For each modality, 1 + the place of every feature of the file in it; 0 where it is another modality's."""
    total, start = sum(map(len, tables.values())), 0
    places: dict[str, Ints] = {}
    for modality, table in tables.items():
        places[modality] = np.zeros(total, np.uint32)
        places[modality][start : start + len(table)] = np.arange(1, len(table) + 1)
        start += len(table)
    return places
