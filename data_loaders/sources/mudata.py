"""One modality of an h5mu file as a source."""

from pathlib import Path

import h5py
import pandas as pd

from data_loaders.errors import BadInput, nearest, readable
from data_loaders.hdf5 import check_filters, open_hdf5
from data_loaders.sources.anndata import open_group
from data_loaders.sources.hdf5 import open_in_hdf5
from data_loaders.sources.source import Options, Source
from data_loaders.types import PathLike


def recognises(path: str) -> bool:
    """Whether a path is of the form FILE.h5mu:NAME."""
    return ".h5mu:" in path and "://" not in path


def open(path: str, options: Options) -> Source:
    """Open the modality NAME of `FILE.h5mu:NAME`.

    obs has the modality's columns and those of the file's own obs that it lacks; of the latter, columns named
    `MODALITY:...` are copies of a modality's and left out.
    """
    file, _, name = path.rpartition(":")
    known = h5mu_modalities(file)
    if name not in known:
        raise BadInput(f"{file}: no modality {name!r}; {nearest(name, known)}")

    def open_root(root: h5py.File) -> Source:
        source = open_group(path, root[f"mod/{name}"], options)
        source.obs = _with_common_columns(file, root, source.obs)
        return source

    return open_in_hdf5(file, open_root)


def _with_common_columns(file: str, root: h5py.File, obs: pd.DataFrame) -> pd.DataFrame:
    """The obs of a modality with the columns of the file's own obs that it lacks."""
    from anndata.io import read_elem

    check_filters(file, root.get("obs"))
    with readable(f"{file}: obs"):
        common = read_elem(root["obs"]) if "obs" in root else obs.iloc[:, :0]
    common.index = common.index.astype(str)
    new = [name for name in common if ":" not in str(name) and name not in obs]
    if not new or common.index.has_duplicates:
        return obs
    return obs.join(common[new])


def h5mu_modalities(path: PathLike) -> list[str]:
    """Names of the modalities of an h5mu file, in its order; BadInput when it is not an h5mu file."""
    if not Path(path).exists():
        raise BadInput(f"{path}: no such file; expected an h5mu file")
    with readable(path), open_hdf5(path) as root:
        if "mod" not in root or not len(root["mod"]):
            raise BadInput(f"{path}: no modalities in it; expected an h5mu file as mudata writes it")
        order = [str(name) for name in root["mod"].attrs.get("mod-order", list(root["mod"]))]
        return [name for name in order if name in root["mod"]]
