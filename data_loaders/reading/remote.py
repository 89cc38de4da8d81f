"""Stores in object storage (`s3://`, `gs://`, `az://`, `http://`), read by ranges through obstore."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput
from data_loaders.manifest import ROOT, SEALED, read_manifest
from data_loaders.parallel import pool_of
from data_loaders.storage.opened import answered, open_bucket, spot_of
from data_loaders.storage.place import place

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore as Bucket

    from data_loaders.manifest import Manifest

AHEAD_BYTES = 256 << 20  # of a store, fetched and not read yet: those of a window, which are compressed


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
    from zarr.core.sync import sync

    from data_loaders.reading.anndata_store import open_zarr

    spot = spot_of(url)
    bucket = open_bucket(spot.base, spot.service, spot.key, options)
    found = place(url, options)
    source = RemoteBytes(bucket, found.shown)  # before: what it saw of the store is what is opened
    store = found.zarr_store()
    root = open_zarr(found.shown, store)
    if root.attrs.get(SEALED):
        manifest, _ = read_manifest(root, found.shown)
        if manifest is not None:
            sync(store.fetch(key for key in manifest.files if key.endswith(ROOT)))
    return root, source


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
    is_far = True

    def __init__(self, store: Bucket, name: str) -> None:
        self.name, self._store = name, store
        self._seen: dict[str, Any] = {}  # key -> what obstore says of the object
        self._root = self._about_root()
        self._fetching: OrderedDict[tuple[str, int, int], Future[bytes]] = OrderedDict()
        self._fetching_bytes, self._lock = 0, threading.Lock()

    def size(self, key: str) -> int:
        """Bytes in an object; FileNotFoundError when there is none, of an expected one as late as it is read."""
        if key not in self._seen and self.manifest is not None and key in self.manifest and key != ROOT:
            return self.manifest.files[key][0]
        return int(self._about(key)["size"])

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object."""
        with self._lock:
            fetched = self._fetching.pop((key, start, stop), None)
            self._fetching_bytes -= 0 if fetched is None else stop - start
        return self._get(key, start, stop) if fetched is None else fetched.result()

    def expect(self, key: str, start: int, stop: int) -> None:
        """Begin to fetch bytes [start, stop) of an object; nothing where too much is fetched already."""
        with self._lock:
            if (key, start, stop) in self._fetching or self._fetching_bytes + stop - start > AHEAD_BYTES:
                return
            self._fetching[key, start, stop] = pool_of("far", self.threads).submit(self._get, key, start, stop)
            self._fetching_bytes += stop - start

    def drop_expected(self) -> None:
        """Let go of what was fetched ahead."""
        with self._lock:
            for future in self._fetching.values():
                future.cancel()
            self._fetching.clear()
            self._fetching_bytes = 0

    def _get(self, key: str, start: int, stop: int) -> bytes:
        import obstore

        stop = min(stop, self.size(key))
        if stop <= start:
            return b""
        options: Any = {"range": (start, stop)}
        if key in self._seen:
            options["if_match"] = self._seen[key]["e_tag"]
        with answered(f"{self.name}/{key}"):
            try:
                found = obstore.get(self._store, key, options=options)
                self._note(key, found.meta)
                return bytes(found.bytes())
            except obstore.exceptions.PreconditionError as error:
                raise self._changed(key) from error

    def _note(self, key: str, about: Any) -> None:
        """Keep what is said of an object; raise `BadInput` when it is another one than was seen first, or expected."""
        if self.manifest is not None:
            self.manifest.check_size(key, about["size"])
        if self._seen.setdefault(key, about)["e_tag"] != about["e_tag"]:
            raise self._changed(key)

    def _changed(self, key: str) -> BadInput:
        return BadInput(f"{self.name}/{key}: changed after the store was opened; open it again")

    def check_unchanged(self, path: str) -> None:
        """Raise `BadInput` when the store is another one than was opened; with a manifest, files are compared."""
        if self.manifest is None and self._about_root() != self._root:
            raise self._changed(path)

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
