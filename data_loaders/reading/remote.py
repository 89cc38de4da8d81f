"""Stores in object storage (`s3://`, `gs://`, `az://`, `http://`), read by ranges through obstore."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput
from data_loaders.types import PathLike

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore as Bucket

    from data_loaders.manifest import Manifest

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # what obstore takes an endpoint from
RETRY: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
}


def is_remote(path: PathLike) -> bool:
    """Whether a path names an object store."""
    return "://" in str(path) and not str(path).startswith("file://")


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
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise BadInput(
            f"{url.partition('?')[0]}: object storage is read by obstore: install the extra `remote`"
        ) from error
    from data_loaders.reading.anndata_store import open_zarr
    from data_loaders.reading.object_store import ToldStore, address, told

    options = dict(options or {})
    endpoint = options.get("endpoint") or next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    plain = any(str(each).startswith("http://") for each in (url, endpoint))
    client = {"allow_http": True} if plain else {}
    try:
        bucket: Any = from_url(url, config=options, client_options=client, retry_config=RETRY)  # type: ignore[call-overload]
    except Exception as error:  # obstore has one class for each service
        raise BadInput(f"{address(url)}: cannot be opened ({told(error)})") from None
    name = address(url)
    store = ToldStore(bucket, read_only=True)
    store.name = name
    source = RemoteBytes(bucket, name)  # before: what it saw of the store is what is opened
    return open_zarr(name, store), source


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
        try:
            return bytes(obstore.get(self._store, key, options=options).bytes())
        except obstore.exceptions.PreconditionError as error:
            raise BadInput(f"{self.name}/{key}: changed after the store was opened; open it again") from error
        except FileNotFoundError:
            raise
        except Exception as error:
            tries = RETRY["max_retries"]
            raise BadInput(f"{self.name}/{key}: cannot be read after {tries} tries ({_told(error)})") from None

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
            try:
                self._seen[key] = obstore.head(self._store, key)
            except FileNotFoundError:
                raise
            except Exception as error:
                raise BadInput(f"{self.name}/{key}: cannot be read ({_told(error)})") from None
        return self._seen[key]


def _told(error: BaseException) -> str:
    from data_loaders.reading.object_store import told  # imports obstore

    return told(error)
