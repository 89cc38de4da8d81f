"""`AtlasWriter`: counts and obs columns in, slice by slice; an AnnData-Zarr store with its card out."""

import hashlib
import json
import shutil

import numba
import numpy as np
import pandas as pd
import zarr

from data_loaders.appender import ArrayAppender, write_small
from data_loaders.card import SPLITS, build_card
from data_loaders.files import begin_output, finish_output
from data_loaders.obs_writer import ObsWriter
from data_loaders.statistics import GeneMoments, SizeFactorLaw


class AtlasWriter:
    """Write an atlas store of any size with bounded memory.

    The store is built beside `path` and renamed by `close`; leaving the `with` block by an exception removes it.
    `obs["size_factor"]` is computed here, the sum of each row; cells without a `split` column are training cells.

    Parameters
    ----------
    path : path-like
        Must not exist.
    var : pandas.DataFrame
        Index: gene names. Columns `n_cells` (cells with the gene), `mean` and `variance` (raw counts of training cells)
        are added.
    labels : sequence of str
        The obs columns that are label columns; categorical in every slice.
    varm : dict, optional
        Arrays (G, ...) to keep with the genes.

    Raises
    ------
    BadInput
        When `path` exists.

    Examples
    --------
    >>> with AtlasWriter("atlas.zarr", var, labels=["cell_type"]) as writer:
    ...     for counts, obs in slices:  # scipy CSR (n, G) with sorted columns, DataFrame (n, columns)
    ...         writer.append(counts, obs)
    ...     writer.close(provenance={"sources": [...]})
    """

    def __init__(self, path, var, *, labels=(), varm=None):
        self.path, self.var, self.labels, self.varm = path, var, tuple(labels), varm or {}
        self.n_cells = self.nnz = 0
        self._moments = GeneMoments(len(var))
        self._law = SizeFactorLaw()
        self._splits = np.zeros(len(SPLITS), np.int64)
        self._label_counts = {name: np.zeros((2, 0), np.int64) for name in self.labels}
        self._hash = hashlib.sha256("\n".join(var.index).encode())
        self._folder = begin_output(path)
        try:
            self._root = zarr.open_group(self._folder, mode="w", zarr_format=3)
            self._root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            matrix = self._root.create_group("X")
            self._data = ArrayAppender(matrix, "data", np.uint8)
            self._indices = ArrayAppender(matrix, "indices", np.uint16 if len(var) <= 1 << 16 else np.uint32)
            self._indptr = ArrayAppender(matrix, "indptr", np.int64)
            self._indptr.append([0])
            self._obs = ObsWriter(self._root.create_group("obs"))
        except BaseException:
            self.discard()
            raise

    def append(self, counts, obs):
        """Add cells.

        Parameters
        ----------
        counts : scipy CSR or SparseRows (n, G)
            `data`, `indices`, `indptr`; columns sorted within each row, no stored zeros, positive integers.
        obs : pandas.DataFrame (n, columns)
            Index: cell names. The same columns in every slice; categorical, text, number or bool.

        Raises
        ------
        ValueError
            When the slice breaks these rules: a fault of the caller, not of the user.
        """
        data, indices, indptr = counts.data, counts.indices, np.asarray(counts.indptr, np.int64)
        if len(indptr) != len(obs) + 1:
            raise ValueError(f"{len(indptr) - 1} rows of counts but {len(obs)} rows of obs")
        largest, size_factor = _check_rows(data, indices, indptr, len(self.var))
        if largest > np.iinfo(self._data.dtype).max:
            self._data.promote(np.min_scalar_type(largest))
        self._data.append(data)
        self._indices.append(indices)
        self._indptr.append(indptr[1:] + self.nnz)

        obs = obs.copy(deep=False)
        if "split" not in obs:
            obs["split"] = pd.Categorical(["train"] * len(obs), categories=SPLITS)
        obs["split"] = obs["split"].cat.set_categories(SPLITS)
        obs["size_factor"] = size_factor.astype(np.float32)
        codes = self._obs.append(obs)
        self._count(data, indices, indptr, size_factor, codes)
        self.n_cells += len(obs)
        self.nnz += len(data)

    def _count(self, data, indices, indptr, size_factor, codes):
        """Add a slice to the statistics of the card."""
        training = codes["split"] == 0
        self._moments.add(data, indices, indptr, counted=training)
        self._splits += np.bincount(codes["split"], minlength=len(SPLITS))
        n_categories = {name: len(self._obs.categories(name)) for name in self.labels}
        self._law.add(size_factor[training], {name: codes[name][training] for name in self.labels}, n_categories)
        for name in self.labels:
            both = [np.bincount(codes[name][keep], minlength=n_categories[name]) for keep in (slice(None), training)]
            counts = np.array(both)
            known = self._label_counts[name]
            counts[:, : known.shape[1]] += known
            self._label_counts[name] = counts
        facts = [np.diff(indptr), size_factor, codes["split"], *(codes[name] for name in self.labels)]
        self._hash.update(np.stack(facts, axis=1).tobytes())

    def close(self, *, uns=None, provenance=None):
        """Write what is left and the card, and give the store its name.

        Parameters
        ----------
        uns : dict, optional
            Entries of `uns` beside the card.
        provenance : dict, optional
            Entries of the card that only the caller knows: `sources`, `options`, `dropped`, `notes`.

        Returns
        -------
        dict
            The card.
        """
        for column in (self._data, self._indices, self._indptr):
            column.close()
        matrix = self._root["X"]
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        matrix.attrs["shape"] = [self.n_cells, len(self.var)]
        self._obs.close()
        var = self.var.copy(deep=False)
        var["n_cells"] = self._moments.nonzero
        var["mean"], var["variance"] = self._moments.mean(), self._moments.variance()
        categories = {name: self._obs.categories(name) for name in self.labels}
        self._hash.update(json.dumps(categories).encode())
        labels = {
            name: {"categories": categories[name], "counts": counts[0].tolist(), "train_counts": counts[1].tolist()}
            for name, counts in self._label_counts.items()
        }
        card = build_card(
            n_cells=self.n_cells,
            genes=var.index,
            nnz=self.nnz,
            labels=labels,
            splits=dict(zip(SPLITS, self._splits.tolist(), strict=True)),
            size_factor=self._law.summary(categories),
            fingerprint=self._hash.hexdigest(),
            provenance=provenance or {},
        )
        write_small(self._root, "var", var)
        write_small(self._root, "varm", dict(self.varm))
        write_small(self._root, "uns", dict(uns or {}) | {"atlas_card": json.dumps(card)})
        for name in ("obsm", "obsp", "varp", "layers"):
            write_small(self._root, name, {})
        finish_output(self._folder, self.path)
        return card

    def discard(self):
        """Remove what was written so far."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None:
            self.discard()


def _check_rows(data, indices, indptr, n_genes):
    """Largest count and row sums (n,), float64, of a CSR slice that must be canonical."""
    sums = np.zeros(len(indptr) - 1)
    largest, positive, sorted_within = _scan(data, indices, indptr, n_genes, sums)
    if not positive:
        raise ValueError("counts must be whole numbers above 0, and zeros are not stored")
    if not sorted_within:
        raise ValueError(f"column numbers must increase within each row and lie within 0..{n_genes - 1}")
    return int(largest), sums


@numba.njit(nogil=True, cache=True)
def _scan(data, indices, indptr, n_genes, sums):
    """Largest count, whether all are whole and positive, whether columns increase within bounds; fills `sums`."""
    largest, positive, sorted_within = 0.0, True, True
    for row in range(len(sums)):
        previous = -1
        for k in range(indptr[row], indptr[row + 1]):
            value, column = float(data[k]), int(indices[k])
            positive &= value >= 1 and value == np.floor(value)
            sorted_within &= previous < column < n_genes
            previous = column
            sums[row] += value
            largest = max(largest, value)
    return largest, positive, sorted_within
