"""Latents of cells on disk: an AnnData-Zarr store with a dense float32 X, opened and streamed like any atlas.

Row i of the store is one cell; `obs` has `row` (the cell's row in the atlas), `size_factor` (and those of further
modalities), `split` and the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import Crc32cCodec

from data_loaders.card import LATENTS
from data_loaders.errors import BadInput
from data_loaders.identity import ATTRIBUTE, new_id
from data_loaders.types import Array, Ints, PathLike
from data_loaders.writing.arrays import write_small
from data_loaders.writing.building import Building

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    from data_loaders.reading.atlas import Atlas

CHUNK_ROWS = 1 << 10
SHARD_ROWS = 1 << 16


class LatentWriter:
    """Write a store of latents slice by slice. It appears under its name when `close` returns, whole, or not at all.

    Parameters
    ----------
    path : path-like or address
        Must not exist.
    atlas : Atlas
        Where the cells come from: split, size factors and label columns are taken over.
    n_dims : int
        Latent dimensions D.
    identity : str, optional
        The id of the store; a random one by default, see `data_loaders.identity`.

    Raises
    ------
    BadInput
        When `path` exists.

    Examples
    --------
    >>> with LatentWriter("latents.zarr", atlas, n_dims=50) as writer:
    ...     for batch in CellStream(atlas, 1024, shuffle=False):
    ...         writer.append(encode(batch), batch.rows)
    >>> latents = open_atlas("latents.zarr")  # modality "latent"
    """

    def __init__(self, path: PathLike, atlas: Atlas, n_dims: int, identity: str | None = None) -> None:
        self.identity = identity or new_id()
        self.path, self.atlas, self.n_dims = path, atlas, n_dims
        self._rows: list[Ints] = []
        self._pending: list[Array] = []
        self._n_pending = 0
        self._building = Building(path)
        self._root = self._building.root
        self._x: zarr.Array[Any] = self._root.create_array(
            "X",
            shape=(0, n_dims),
            dtype=np.float32,
            chunks=(CHUNK_ROWS, n_dims),
            shards=(SHARD_ROWS, n_dims),
            compressors=[Crc32cCodec()],  # noise does not compress; damage must be seen
            fill_value=np.nan,
            attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
        )

    def append(self, latents: npt.ArrayLike, rows: Ints) -> None:
        """Add cells.

        Parameters
        ----------
        latents : float array (B, D)
        rows : integer array (B,)
            Their rows in the atlas.

        Raises
        ------
        BadInput
            When a latent is not finite: the autoencoder diverged.
        ValueError
            When the shapes do not fit: a fault of the caller.
        """
        values = np.ascontiguousarray(latents, dtype=np.float32)
        if values.shape != (len(rows), self.n_dims):
            raise ValueError(f"latents have shape {values.shape}; expected ({len(rows)}, {self.n_dims})")
        if not np.isfinite(values).all():
            bad = rows[np.flatnonzero(~np.isfinite(values).all(1))[0]]
            raise BadInput(f"the latent of row {bad} of {self.atlas.name} is not finite; the autoencoder diverged")
        self._rows.append(np.asarray(rows, np.int64))
        self._pending.append(values)
        self._n_pending += len(values)
        if self._n_pending >= SHARD_ROWS:
            self._flush(self._n_pending - self._n_pending % SHARD_ROWS)

    def close(self) -> None:
        """Write what is left and the columns, and give the store its name."""
        self._flush(self._n_pending)
        rows = np.concatenate(self._rows or [np.empty(0, np.int64)])
        atlas = self.atlas
        obs = pd.DataFrame({"row": rows, "size_factor": atlas.size_factor[rows]}, index=rows.astype(str))
        for name in [f"size_factor_{modality}" for modality in atlas.modalities[1:]]:
            if name in atlas.obs_columns:
                obs[name] = np.asarray(atlas.obs(name))[rows]
        for name in [*atlas.labels, *(["split"] if "split" in atlas.obs_columns else [])]:
            obs[name] = pd.Categorical.from_codes(atlas.codes(name)[rows], atlas.categories(name))
        write_small(self._root, "obs", obs)
        write_small(self._root, "var", pd.DataFrame(index=[f"latent_{i}" for i in range(self.n_dims)]))
        for name in ("obsm", "obsp", "varm", "varp", "layers", "uns"):
            write_small(self._root, name, {})
        attributes = {"encoding-type": "anndata", "encoding-version": "0.1.0", "content": LATENTS}
        self._root.attrs.update(attributes | {ATTRIBUTE: self.identity})
        self._building.finish()

    def discard(self) -> None:
        """Remove what was written so far."""
        self._building.discard()

    def _flush(self, n: int) -> None:
        """Write the first `n` pending cells at the end."""
        if n == 0:
            return
        values = np.concatenate(self._pending)
        self._pending, self._n_pending = [values[n:].copy()], self._n_pending - n
        start = self._x.shape[0]
        self._x.resize((start + n, self.n_dims))
        self._x[start : start + n] = values[:n]

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
