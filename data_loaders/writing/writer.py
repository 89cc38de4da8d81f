"""`AtlasWriter`: counts and obs columns in, slice by slice; an AnnData-Zarr store with its card out."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from data_loaders.card import SPLITS, build_card, describe_modality
from data_loaders.identity import ATTRIBUTE, new_id
from data_loaders.types import Array, Ints, PathLike
from data_loaders.writing.arrays import write_small
from data_loaders.writing.building import Building
from data_loaders.writing.matrix import MatrixWriter
from data_loaders.writing.obs import ObsWriter
from data_loaders.writing.size_factors import SizeFactorSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from data_loaders.statistics.csr import Csr


class AtlasWriter:
    """Write an atlas store of any size with bounded memory.

    The store appears when `close` has written all of it, see `data_loaders.writing.building`; leaving the `with` block
    by an exception removes what was written.
    `obs["size_factor"]` is computed here, the sum of each row; cells without a `split` column are training cells.

    Parameters
    ----------
    path : path-like or address
        Must not exist.
    var : pandas.DataFrame
        Index: gene names. Columns `n_cells` (cells with the gene), `mean` and `variance` (raw counts of training cells)
        are added.
    labels : sequence of str
        The obs columns that are label columns; categorical in every slice.
    varm : dict, optional
        Arrays (G, ...) to keep with the genes.
    modalities : dict, optional
        Name → var of further matrices with the same cells (peaks, proteins). Each becomes `obsm[NAME]`, its var
        `uns["features"][NAME]`, with the same columns added, and the sums of its rows `obs["size_factor_NAME"]`.
    identity : str, optional
        The id of the store; a random one by default, see `data_loaders.identity`.

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

    def __init__(
        self,
        path: PathLike,
        var: pd.DataFrame,
        *,
        labels: Sequence[str] = (),
        varm: Mapping[str, Array] | None = None,
        modalities: Mapping[str, pd.DataFrame] | None = None,
        identity: str | None = None,
    ) -> None:
        self.identity = identity or new_id()
        self.path, self.var, self.labels, self.varm = path, var, tuple(labels), dict(varm or {})
        self.n_cells = 0
        self._law = SizeFactorSums()
        self._splits = np.zeros(len(SPLITS), np.int64)
        self._label_counts = {name: np.zeros((2, 0), np.int64) for name in self.labels}
        self._hash = hashlib.sha256("\n".join(var.index).encode())
        for name, features in (modalities or {}).items():
            self._hash.update("\n".join([name, *features.index]).encode())
        self._building = Building(path)
        try:
            self._root = self._building.root
            attributes = {"encoding-type": "anndata", "encoding-version": "0.1.0", ATTRIBUTE: self.identity}
            self._root.attrs.update(attributes)
            self._matrix = MatrixWriter(self._root.create_group("X"), var)
            write_small(self._root, "obsm", {})
            self._others = {
                name: MatrixWriter(self._root.create_group(f"obsm/{name}"), features)
                for name, features in (modalities or {}).items()
            }
            self._obs = ObsWriter(self._root.create_group("obs"))
        except BaseException:
            self.discard()
            raise

    def append(self, counts: Csr, obs: pd.DataFrame, others: Mapping[str, Csr] | None = None) -> None:
        """Add cells.

        Parameters
        ----------
        counts : scipy CSR or SparseRows (n, G)
            `data`, `indices`, `indptr`; columns sorted within each row, no stored zeros, positive integers.
        obs : pandas.DataFrame (n, columns)
            Index: cell names. The same columns in every slice; categorical, text, number or bool.
        others : dict, optional
            Modality → counts of the same cells, for all `modalities`. A row without counts is a cell in which the
            modality was not measured.

        Raises
        ------
        ValueError
            When the slice breaks these rules: a fault of the caller, not of the user.
        """
        others = {} if others is None else others
        if set(others) != set(self._others):
            raise ValueError(f"modalities {sorted(others)} given, {sorted(self._others)} expected")
        obs = obs.copy(deep=False)
        if "split" not in obs:
            obs["split"] = pd.Categorical(["train"] * len(obs), categories=SPLITS)
        obs["split"] = obs["split"].cat.set_categories(SPLITS)
        training = obs["split"].cat.codes.to_numpy() == 0
        size_factor = self._matrix.append(counts, training)
        obs["size_factor"] = size_factor.astype(np.float32)
        facts = [np.diff(np.asarray(counts.indptr, np.int64)), size_factor]
        for name, matrix in self._others.items():
            sums = matrix.append(others[name], training)
            obs[f"size_factor_{name}"] = sums.astype(np.float32)
            facts.append(sums)
        codes = self._obs.append(obs)
        self._count(facts, codes)
        self.n_cells += len(obs)

    def _count(self, facts: Sequence[Array], codes: Mapping[str, Ints]) -> None:
        """Add a slice to the statistics of the card.

        `facts` are arrays (n,) about the cells: non-zeros, size factors, and the sums of further modalities.
        """
        training, size_factor = codes["split"] == 0, facts[1]
        self._splits += np.bincount(codes["split"], minlength=len(SPLITS))
        n_categories = {name: len(self._obs.categories(name)) for name in self.labels}
        self._law.add(size_factor[training], {name: codes[name][training] for name in self.labels}, n_categories)
        for name in self.labels:
            counts = np.array([
                np.bincount(codes[name][cells & (codes[name] >= 0)], minlength=n_categories[name])
                for cells in (np.True_, training)
            ])  # fmt: skip
            known = self._label_counts[name]
            counts[:, : known.shape[1]] += known
            self._label_counts[name] = counts
        hashed = [*facts, codes["split"], *(codes[name] for name in self.labels)]
        self._hash.update(np.stack(hashed, axis=1).tobytes())

    def close(
        self, *, uns: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
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
        var = self._matrix.close()
        features = {name: matrix.close() for name, matrix in self._others.items()}
        self._obs.close()
        categories = {name: self._obs.categories(name) for name in self.labels}
        self._hash.update(json.dumps(categories).encode())
        labels = {name: self._described_label(name, categories[name]) for name in self.labels}
        card = build_card(
            n_cells=self.n_cells,
            genes=var.index,
            nnz=self._matrix.nnz,
            labels=labels,
            splits=dict(zip(SPLITS, self._splits.tolist(), strict=True)),
            size_factor=self._law.summary(categories),
            fingerprint=self._hash.hexdigest(),
            identity=self.identity,
            provenance=(self._described() if self._others else {}) | dict(provenance or {}),
        )
        write_small(self._root, "var", var)
        write_small(self._root, "varm", self.varm)
        tables = {"features": features} if features else {}
        write_small(self._root, "uns", dict(uns or {}) | tables | {"atlas_card": json.dumps(card)})
        for name in ("obsp", "varp", "layers"):
            write_small(self._root, name, {})
        self._building.finish()
        return card

    def _described_label(self, name: str, categories: list[str]) -> dict[str, Any]:
        """The card's entry on a label column; `unlabelled` is there where cells have none."""
        counts, train_counts = self._label_counts[name].tolist()
        unlabelled = {"unlabelled": self.n_cells - sum(counts)} if sum(counts) < self.n_cells else {}
        return {"categories": categories, "counts": counts, "train_counts": train_counts} | unlabelled

    def _described(self) -> dict[str, Any]:
        """The card's entry on the modalities."""
        matrices = {"rna": self._matrix} | self._others
        return {"modalities": {name: describe_modality(name, **matrix.facts()) for name, matrix in matrices.items()}}

    def discard(self) -> None:
        """Remove what was written so far."""
        self._building.discard()

    def __enter__(self) -> AtlasWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
