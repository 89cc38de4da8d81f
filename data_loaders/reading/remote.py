"""Stores in object storage (`s3://`, `gs://`, `az://`, `http://`), read by ranges through obstore."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput
from data_loaders.storage.opened import answered, open_bucket, spot_of
from data_loaders.storage.place import place

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore as Bucket

    from data_loaders.manifest import Manifest


def open_remote(url: str, options: dict[str, Any] | None = None) -> tuple[zarr.Group, RemoteBytes]:
    """Open a Zarr store in object storage.

    Parameters
    ----------
    url : str
        As `s3://bucket/atlas.zarr`.
    options : dict, optional
        Options of obstore: `endpoint`, `region`, `access_key_id`, `skip_signature`, ... What is left out comes from the
        usual environment variables.

    Returns
    -------
    root : zarr.Group
    source : RemoteBytes

    Raises
    ------
    BadInput
        When obstore is not installed, or there is no store.
    """
    from data_loaders.reading.anndata_store import open_zarr

    spot = spot_of(url)
    bucket = open_bucket(spot.base, spot.service, spot.key, options)
    found = place(url, options)
    source = RemoteBytes(bucket, found.shown)  # before: what it saw of the store is what is opened
    return open_zarr(found.shown, found.zarr_store()), source


class RemoteBytes:
    """Objects under a prefix, read by ranges; a dropped connection is tried again by obstore.

    Notes
    -----
    An object replaced between two reads is an error: each read asks for the version that was seen first. The same holds
    for the metadata of the store, where it has no manifest.
    """

    manifest: Manifest | None = None
    run_bytes = 8 << 20  # one request costs a round trip: ask for more at once than from a disk
    threads = 16
    fetches_ahead = False

    def __init__(self, store: Bucket, name: str) -> None:
        self.name, self._store = name, store
        self._seen: dict[str, Any] = {}  # key -> what obstore says of the object
        self._root = self._about_root()

    def size(self, key: str) -> int:
        """Bytes in an object; FileNotFoundError when there is none."""
        return int(self._about(key)["size"])

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object."""
        import obstore

        about = self._about(key)
        stop = min(stop, about["size"])
        if stop <= start:
            return b""
        options: Any = {"range": (start, stop), "if_match": about["e_tag"]}
        with answered(f"{self.name}/{key}"):
            try:
                return bytes(obstore.get(self._store, key, options=options).bytes())
            except obstore.exceptions.PreconditionError as error:
                raise BadInput(f"{self.name}/{key}: changed after the store was opened; open it again") from error

    def expect(self, key: str, start: int, stop: int) -> None:
        """Nothing can be fetched ahead."""

    def check_unchanged(self, path: str) -> None:
        """Raise `BadInput` when the store is another one than was opened; with a manifest, files are compared."""
        if self.manifest is None and self._about_root() != self._root:
            raise BadInput(f"{self.name}/{path}: changed after the store was opened; open it again")

    def _about_root(self) -> Any:
        """Version of the metadata of the root; None where it cannot be told."""
        import obstore

        for key in ("zarr.json", ".zgroup"):
            with suppress(Exception):  # whoever may not list a bucket gets other errors than that there is none
                return obstore.head(self._store, key)["e_tag"]
        return None

    def _about(self, key: str) -> Any:
        import obstore

        if key not in self._seen:
            with answered(f"{self.name}/{key}"):
                self._seen[key] = obstore.head(self._store, key)
        return self._seen[key]
