"""AnnData stores on disk (Zarr v2 and v3, h5ad): columns on demand, matrices through readers."""

from pathlib import Path

import h5py
import zarr
from anndata.io import read_elem

from data_loaders.errors import BadInput
from data_loaders.reader import INCOMPLETE, matrix_reader

LATENTS = "latents"  # value of the root attribute `content` in a store of latents


class AnnDataStore:
    """An AnnData-Zarr store or h5ad file.

    Attributes
    ----------
    name : str
        Path, for messages.
    n_cells : int
    obs_columns : list of str
    readers : dict
        Modality → reader. `X` is `rna` (`latent` in a store of latents); sparse matrices in `obsm` keep their names.

    Raises
    ------
    BadInput
        When there is no such store, or parts of it are missing or do not fit each other.
    """

    def __init__(self, path, layer=None):
        self.name = str(path)
        self.root = _open_root(path)
        if "X" not in self.root and layer is None:
            raise BadInput(f"{path}: no X in it; not an AnnData store, or {INCOMPLETE}")
        for part in ("obs", "var"):
            if part not in self.root or "_index" not in self.root[part].attrs:
                raise BadInput(f"{path}: no complete {part} in it; {INCOMPLETE}")
        if layer is not None and (layer not in self.root.get("layers", {})):
            raise BadInput(f"{path}: no layer {layer!r}; it has {sorted(self.root.get('layers', {})) or 'none'}")
        self.obs_columns = [str(name) for name in self.root["obs"].attrs.get("column-order", [])]
        main = "latent" if self.root.attrs.get("content") == LATENTS else "rna"
        element = "X" if layer is None else f"layers/{layer}"
        self.readers = {main: matrix_reader(self.root[element], f"{path}: {element}")}
        for name in self.root.get("obsm", {}):
            if str(self.root[f"obsm/{name}"].attrs.get("encoding-type", "")) == "csr_matrix":
                self.readers[str(name)] = matrix_reader(self.root[f"obsm/{name}"], f"{path}: obsm/{name}")
        self.n_cells = len(self.readers[main])
        self._check_lengths()

    def obs(self, column):
        """Values of an obs column: array, or pandas Categorical."""
        return read_elem(self.root[f"obs/{column}"])

    def obs_names(self):
        """Names of the cells, array (n_cells,); read anew each time, they are large."""
        return read_elem(self.root[f"obs/{self.root['obs'].attrs['_index']}"])

    def var(self):
        """The var table, its index the gene names."""
        return read_elem(self.root["var"])

    def uns(self, key):
        """An entry of uns, or None."""
        uns = self.root.get("uns", {})
        return read_elem(uns[key]) if key in uns else None

    def _check_lengths(self):
        obs = self.root["obs"]
        for name in [obs.attrs["_index"], *self.obs_columns]:
            if name not in obs:
                raise BadInput(f"{self.name}: obs column {name!r} is missing; {INCOMPLETE}")
            values = obs[name]
            if hasattr(values, "keys"):  # a group: categorical, or numbers with a mask
                values = values["codes" if "codes" in values else "values"]
            if values.shape[0] != self.n_cells:
                raise BadInput(
                    f"{self.name}: obs column {name!r} has {values.shape[0]} rows, X {self.n_cells}; {INCOMPLETE}"
                )
        for name, reader in self.readers.items():
            if len(reader) != self.n_cells:
                raise BadInput(f"{self.name}: modality {name!r} has {len(reader)} rows, X has {self.n_cells}")


def _open_root(path):
    """The root group of a Zarr store or h5ad file."""
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; expected an AnnData-Zarr store or an h5ad file")
    if path.is_file():
        try:
            return h5py.File(path, "r")
        except OSError as error:
            raise BadInput(f"{path}: cannot be read as an h5ad file ({error})") from error
    try:
        root = zarr.open(path, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: not a Zarr store, or one still being written ({error})") from error
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{path}: a single Zarr array; expected an AnnData-Zarr store")
    return root
