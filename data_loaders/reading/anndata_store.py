"""AnnData stores (Zarr v2 and v3, h5ad): columns on demand, matrices through readers."""

import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from data_loaders.card import LATENTS, parse_card
from data_loaders.errors import BadInput, readable
from data_loaders.features.gene_names import name_features
from data_loaders.hdf5 import check_filters
from data_loaders.manifest import ELEMENT, ROOT
from data_loaders.reading.byte_ranges import ByteSource, LocalBytes
from data_loaders.reading.checked import checked
from data_loaders.reading.chunks import DiskArray, ZarrChunks, open_chunks
from data_loaders.reading.reader import INCOMPLETE, CsrReader, DenseReader, DiskGroup, matrix_reader, read_whole
from data_loaders.reading.store import Column
from data_loaders.reading.value_checks import Naming, check_first
from data_loaders.sources.source import Options
from data_loaders.sources.which import Place, has, in_words, other_counts, other_places, place_of_counts, values_of
from data_loaders.types import Array
from data_loaders.zarr_groups import is_unknown, names, open_group

X = Place("X", "X")

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
    options : Options, optional
        Where its counts are: `layer`, `raw`.
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
    identity : str or None
        The id of the store, see `data_loaders.identity`; None where it has none.
    is_ours : bool
        Whether this project wrote the counts, which are then in X and need no check.
    counts_from : str
        The element that the counts are taken from, such as "X" or "layers['counts']".
    has_size_factor : bool
        Whether `obs["size_factor"]` is the sum of the counts of each cell.
    notes : list of str
        What was chosen or left out, for the user to know.
    readers : dict
        Modality → reader. The counts are `rna` (`latent` in a store of latents); sparse matrices in `obsm` keep their
        names.

    Raises
    ------
    BadInput
        When parts of the store are missing or do not fit each other, or it has no counts.
    """

    def __init__(
        self,
        root: DiskGroup,
        source: ByteSource | None,
        name: str,
        options: Options | None = None,
        var_names: str | None = None,
    ) -> None:
        self.root, self.source, self.name, self._var_names = root, source, name, var_names
        self.readers: dict[str, CsrReader | DenseReader] = {}
        self.contents: str | None = None
        self.identity: str | None = None
        self._is_believed = True
        self.notes: list[str] = []
        with readable(name):
            self._check_files()
            self._open(options or Options())

    def _check_files(self) -> None:
        """From now on compare files with the manifest, where the store has one."""
        if not isinstance(self.root, zarr.Group):
            # a card that came by way of a store with a manifest: what became of the cells since, nobody knows
            self._is_believed = ELEMENT not in (self.root.get("uns") or {})
        elif not self.root.path:  # a store inside another's folder was put there by other programs
            self.root, manifest, self._is_believed = checked(self.root, self.name)
            if manifest is not None:
                self.contents, self.identity = manifest.contents, manifest.identity
            if self.source is not None:
                self.source.manifest = manifest
        if not self._is_believed:
            log.warning("%s: written anew by another program; what its card said holds no more", self.name)

    def check_cheaply(self) -> None:
        """Raise `BadInput` when a file of a local store with a manifest is missing, or has another size or end."""
        if isinstance(self.source, LocalBytes) and self.source.manifest is not None:
            with readable(self.name):
                self.source.manifest.check_cheaply(Path(self.name))

    def _open(self, options: Options) -> None:
        """Find the columns and matrices, and see whether they fit each other."""
        root, name = self.root, self.name
        if not any(part in root for part in ("obs", "var", "X")):
            raise BadInput(f"{name}: {_contents(root)}; expected an AnnData")
        for part in ("obs", "var"):
            if part not in root or "_index" not in root[part].attrs:
                raise BadInput(f"{name}: no complete {part} in it; {INCOMPLETE}")
        columns = [str(column) for column in root["obs"].attrs.get("column-order", [])]
        self.obs_columns = [column for column in columns if not is_unknown(root["obs"], column)]
        main = "latent" if root.attrs.get("content") == LATENTS else "rna"
        card = self.uns("atlas_card")
        self.readers = {main: self._open_counts(options, main, card is not None)}
        self.has_size_factor = self.is_ours and "size_factor" in self.obs_columns
        self.n_cells = len(self.readers[main])
        obsm = root.get("obsm")
        for key in [] if obsm is None else sorted(self._keys(obsm)):
            if not is_unknown(root["obsm"], key) and root[f"obsm/{key}"].attrs.get("encoding-type") == "csr_matrix":
                self._add_modality(str(key))
        facts = {} if card is None else parse_card(card, name)
        told = facts.get("id")
        if self.identity is not None and told is not None and told != self.identity:
            raise BadInput(f"{name}: its card is of another store (id {told[:8]}, expected {self.identity[:8]})")
        self.is_shuffled = facts.get("options", {}).get("in_order") is False
        self._check_lengths()

    def _open_counts(self, options: Options, main: str, has_card: bool) -> CsrReader | DenseReader:
        """The reader of the counts, or of the latents."""
        root, source, name, place = self.root, self.source, self.name, X
        self.is_ours, reader = False, None
        if not options.given() and (has_card or main == "latent") and "X" in root:
            check_filters(name, root["X"])
            reader = matrix_reader(root["X"], source, f"{name}: X")
            # another program may have rewritten the store and left the card: not in a type that we write counts in
            self.is_ours = main == "latent" or reader.stored_dtype.kind == "u"
        if reader is None or not self.is_ours:
            if not (has(root, "X") or has(root, "raw/X") or names(root.get("layers"))):
                raise BadInput(f"{name}: no X in it; not an AnnData store, or {INCOMPLETE}")
            place = place_of_counts(name, root, options, self._first_values)
            if place != X:
                self.notes.append(f"{name}: the counts are taken from {place.label}")
            elif not options.given() and isinstance(source, LocalBytes | None):
                self.notes += other_counts(name, root)
            check_filters(name, root[place.key])
            others = other_places(root, place)
            store = weakref.proxy(self)  # a circle would keep an HDF5 file open until the garbage is collected
            named = Naming(lambda: store.obs_names(), lambda: np.asarray(store.var().index), in_words(others))
            reader = matrix_reader(root[place.key], source, f"{name}: {place.label}", named)
        self.counts_from, self._var = place.label, "raw/var" if place.key.startswith("raw/") else "var"
        if not self.is_ours:
            check_first(reader)
            if isinstance(source, LocalBytes):
                source.forget()  # who writes to the store from now on is noticed
        return reader

    def _first_values(self, name: str, element: DiskGroup | DiskArray) -> Array:
        """The first values of a matrix; a chunk that is lost or damaged is named."""
        check_filters(name, element)
        if not hasattr(element, "shape") and "data" not in element:
            raise BadInput(f"{name}: its array data is missing; {INCOMPLETE}")
        array, n = values_of(name, element)
        chunks = open_chunks(array, self.source, f"{name}/data" if array is not element else name)
        n, parts, chunk = min(n, chunks.n), [], 0
        while chunk * chunks.chunk_len < n:
            parts.append(chunks.read(chunk, chunk + 1).copy())
            chunk += 1
        return np.concatenate(parts)[:n] if parts else np.empty(0, chunks.dtype)

    def _add_modality(self, key: str) -> None:
        """A sparse matrix of obsm, if it holds counts."""
        store = weakref.proxy(self)
        named = None if self.is_ours else Naming(lambda: store.obs_names(), lambda: store._feature_names(key))
        check_filters(self.name, self.root[f"obsm/{key}"])
        reader = matrix_reader(self.root[f"obsm/{key}"], self.source, f"{self.name}: obsm/{key}", named)
        try:
            if not self.is_ours:
                check_first(reader)
        except BadInput as error:
            self.notes.append(f"{error}; it is no modality of the atlas")
        else:
            self.readers[key] = reader

    def _feature_names(self, modality: str) -> Array | None:
        table = self.features(modality)
        return None if table is None else np.asarray(table.index)

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
        """The table of the genes of the counts, its index their names: that of raw where raw holds the counts."""
        var: pd.DataFrame = self._read(self._var)
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


def _contents(root: DiskGroup) -> str:
    """What is in a Zarr store that is no AnnData, in words."""
    if root.attrs.get("encoding-type") == "MuData":
        return "a MuData in Zarr: open one modality of it, as STORE/mod/rna"
    keys = sorted(names(root))
    return f"a Zarr store with {', '.join(keys[:8])}" if keys else "an empty Zarr store"


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
