"""AnnData stores (Zarr v2 and v3, h5ad): columns on demand, matrices through readers."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.card import LATENTS, parse_card
from data_loaders.errors import BadInput, readable
from data_loaders.features.gene_names import name_features
from data_loaders.hdf5 import check_filters, open_h5ad
from data_loaders.manifest import ELEMENT, ROOT
from data_loaders.reading.byte_ranges import ByteSource, LocalBytes
from data_loaders.reading.checked import checked
from data_loaders.reading.chunks import ZarrChunks, open_chunks
from data_loaders.reading.reader import INCOMPLETE, CsrReader, DenseReader, DiskGroup, matrix_reader, read_whole
from data_loaders.reading.store import Column
from data_loaders.types import Array, PathLike
from data_loaders.zarr_groups import is_unknown, names, open_group

NOT_IN_PLACE = {"matrix": "a 10x or loom file", "mod": "a MuData file"}  # by a member that only such files have

log = logging.getLogger("data_loaders")


class AnnDataStore:
    """One AnnData-Zarr store or h5ad file.

    Parameters
    ----------
    root : zarr.Group or h5py.File
    source : byte source or None
        Where the files of a Zarr store are.
    name : str
        Path, for messages.
    layer : str, optional
        Counts from this layer in place of X.
    var_names : str, optional
        The var column with the gene names. When left out, by the rule of `features.gene_names`; in stores that this
        project wrote, the index.

    Attributes
    ----------
    n_cells : int
    obs_columns : list of str
    is_shuffled : bool
        Whether the cells were put in random order when the store was written.
    contents : str or None
        What tells the data of the store from any other; None where it has no manifest.
    is_ours : bool
        Whether this project wrote the store.
    notes : list of str
        By which column genes are named, where it is not the index.
    readers : dict
        Modality → reader. `X` is `rna` (`latent` in a store of latents); sparse matrices in `obsm` keep their names.

    Raises
    ------
    BadInput
        When parts of the store are missing or do not fit each other.
    """

    def __init__(
        self,
        root: DiskGroup,
        source: ByteSource | None,
        name: str,
        layer: str | None = None,
        var_names: str | None = None,
    ) -> None:
        self.root, self.source, self.name, self._var_names = root, source, name, var_names
        self.readers: dict[str, CsrReader | DenseReader] = {}
        self.contents: str | None = None
        self._is_believed = True
        self.notes: list[str] = []
        with readable(name):
            self._check_files()
            self._open(layer)

    def _check_files(self) -> None:
        """From now on compare files with the manifest, where the store has one."""
        if not isinstance(self.root, zarr.Group):
            # a card that came by way of a store with a manifest: what became of the cells since, nobody knows
            self._is_believed = ELEMENT not in (self.root.get("uns") or {})
        elif not self.root.path:  # a store inside another's folder was put there by other programs
            self.root, manifest, self._is_believed = checked(self.root, self.name)
            if manifest is not None:
                self.contents = manifest.contents
            if self.source is not None:
                self.source.manifest = manifest
        if not self._is_believed:
            log.warning("%s: written anew by another program; what its card said holds no more", self.name)

    def check_cheaply(self) -> None:
        """Raise `BadInput` when a file of a local store with a manifest is missing, or has another size or end."""
        if isinstance(self.source, LocalBytes) and self.source.manifest is not None:
            with readable(self.name):
                self.source.manifest.check_cheaply(Path(self.name))

    def _open(self, layer: str | None) -> None:
        """Find the columns and matrices, and see whether they fit each other."""
        root, source, name = self.root, self.source, self.name
        kind = next((kind for member, kind in NOT_IN_PLACE.items() if member in root), None)
        if kind is not None and "X" not in root:
            raise BadInput(f"{name}: {kind}, not read in place; `ingest({name!r}, OUT)` makes a store of it")
        if "X" not in root and layer is None:
            raise BadInput(f"{name}: no X in it; not an AnnData store, or {INCOMPLETE}")
        for part in ("obs", "var"):
            if part not in root or "_index" not in root[part].attrs:
                raise BadInput(f"{name}: no complete {part} in it; {INCOMPLETE}")
        layers = names(root.get("layers"))
        if layer is not None and layer not in layers:
            raise BadInput(f"{name}: no layer {layer!r}; it has {', '.join(sorted(layers)) or 'none'}")
        columns = [str(column) for column in root["obs"].attrs.get("column-order", [])]
        self.obs_columns = [column for column in columns if not is_unknown(root["obs"], column)]
        main = "latent" if root.attrs.get("content") == LATENTS else "rna"
        elements = {main: "X" if layer is None else f"layers/{layer}"}
        obsm = root.get("obsm")
        for key in [] if obsm is None else sorted(self._keys(obsm)):
            if not is_unknown(root["obsm"], key) and root[f"obsm/{key}"].attrs.get("encoding-type") == "csr_matrix":
                elements[str(key)] = f"obsm/{key}"
        for path in elements.values():
            check_filters(name, root[path])
        self.readers = {key: matrix_reader(root[path], source, f"{name}: {path}") for key, path in elements.items()}
        self.n_cells = len(self.readers[main])
        card = self.uns("atlas_card")
        self.is_ours = card is not None or main == "latent"
        self.is_shuffled = card is not None and parse_card(card, name).get("options", {}).get("in_order") is False
        self._check_lengths()

    def obs(self, column: str) -> Column:
        """Values of an obs column: array, or pandas Categorical.

        Raises
        ------
        BadInput
            When the column is damaged.
        """
        values: Column = self._read(f"obs/{column}")
        return values

    def obs_names(self) -> Array:
        """Names of the cells, array (n_cells,); read anew each time, they are large."""
        names: Array = self._read(f"obs/{self.root['obs'].attrs['_index']}")
        return names

    def is_categorical(self, column: str) -> bool:
        """Whether an obs column is stored as codes and categories."""
        with readable(f"{self.name}: obs/{column}"):
            return bool(self.root[f"obs/{column}"].attrs.get("encoding-type") == "categorical")

    def var(self) -> pd.DataFrame:
        """The var table, its index the gene names."""
        var: pd.DataFrame = self._read("var")
        if self.is_ours and self._var_names is None:
            return var
        var.index = var.index.astype(str)
        named = name_features(self.name, var, self._var_names)
        self.notes += [note for note in named.notes if note not in self.notes]
        return named.var

    def features(self, modality: str) -> pd.DataFrame | None:
        """The table of the features of a modality beside the first, or None where the store has none."""
        key = f"uns/features/{modality}"
        return self._read(key) if key in self.root else None

    def uns(self, key: str) -> Any:
        """An entry of uns, or None. There is no card where it is about other files than these."""
        if key == "atlas_card" and not self._is_believed:
            return None
        return self._read(f"uns/{key}") if f"uns/{key}" in self.root else None

    def _keys(self, group: DiskGroup) -> list[str]:
        """What is in a group; by the manifest where there is one: Zarr complains aloud when it lists damaged arrays."""
        manifest = self.source.manifest if self.source is not None else None
        if manifest is None or not isinstance(group, zarr.Group):
            return list(names(group))
        start = f"{group.path}/"
        return sorted({key[len(start) :].partition("/")[0] for key in manifest.files if key.startswith(start)} - {ROOT})

    def _read(self, path: str) -> Any:
        with readable(f"{self.name}: {path}"):
            if self.source is not None and isinstance(self.root, zarr.Group):
                self.source.check_unchanged(f"{self.root.path}/{path}".strip("/"))
            element = self.root[path]
            check_filters(self.name, element)
            parts = [element[key] for key in self._keys(element)] if isinstance(element, zarr.Group) else [element]
        if isinstance(element, zarr.Array) and element.dtype.kind in "iuf" and element.fill_value != 0:
            # numbers as our own stores keep them; anndata would hold the encoded shards in memory beside them
            return read_whole(open_chunks(element, self.source, f"{self.name}: {path}"), threads=1)
        for part in parts:
            # a fill value of 0 may stand for a chunk of zeros; any other was chosen to stand for nothing
            if isinstance(part, zarr.Array) and part.fill_value not in (0, "", None):
                chunks = open_chunks(part, self.source, f"{self.name}: {part.path}")
                missing = chunks.missing() if isinstance(chunks, ZarrChunks) else []
                if missing:
                    raise BadInput(f"{chunks.name}: chunk {missing[0]} is missing; {INCOMPLETE}")
        try:
            return read_elem(element)
        except BadInput:
            raise
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise BadInput(f"{self.name}: {path} cannot be read ({_one_line(error)}); {INCOMPLETE}") from error

    def _check_lengths(self) -> None:
        obs = self.root["obs"]
        for name in [obs.attrs["_index"], *self.obs_columns]:
            if name not in obs:
                raise BadInput(f"{self.name}: obs column {name!r} is missing; {INCOMPLETE}")
            values = obs[name]
            if not hasattr(values, "shape"):  # a group: categorical, or numbers with a mask
                values = values["codes" if "codes" in values else "values"]
            if values.shape[0] != self.n_cells:
                raise BadInput(
                    f"{self.name}: obs column {name!r} has {values.shape[0]} rows, X {self.n_cells}; {INCOMPLETE}"
                )
        for name, reader in self.readers.items():
            if len(reader) != self.n_cells:
                raise BadInput(f"{self.name}: modality {name!r} has {len(reader)} rows, X {self.n_cells}; {INCOMPLETE}")


def open_root(path: PathLike) -> tuple[DiskGroup, LocalBytes | None]:
    """Open a local path.

    Returns
    -------
    root : zarr.Group or h5py.File
    source : LocalBytes or None

    Raises
    ------
    BadInput
        When nothing readable is there.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder; expected an AnnData-Zarr store, h5ad file or SOMA experiment")
    if path.is_file():
        try:
            return open_h5ad(path), None
        except OSError as error:
            raise BadInput(f"{path}: cannot be read as an h5ad file ({_one_line(error)})") from error
    odd = next((entry for entry in (path, path / "zarr.json") if entry.exists() and not _is_plain(entry)), None)
    if odd is not None:  # reading a pipe would wait for ever
        raise BadInput(f"{odd}: a pipe or a device; expected an AnnData-Zarr store, h5ad file or SOMA experiment")
    source = LocalBytes(path)
    return open_zarr(str(path), path), source


def open_zarr(name: str, where: Any) -> zarr.Group:
    """The root group of a Zarr store, `where` a path or a Zarr store object."""
    try:
        root = open_group(where)
    except BadInput:
        raise
    except (FileNotFoundError, KeyError, ValueError, OSError) as error:
        raise BadInput(f"{name}: not a Zarr store, or one still being written ({_one_line(error)})") from error
    if not isinstance(root, zarr.Group):
        raise BadInput(f"{name}: a single Zarr array; expected an AnnData-Zarr store")
    return root


def _is_plain(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
