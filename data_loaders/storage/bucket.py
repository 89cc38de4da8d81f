"""Objects in a bucket, or files of the web to be read; a `storage.place.Place`.

Requests that fail are tried again: by obstore where that is safe, and here where a put has a condition. Such a put may
have succeeded although its answer was lost; every object that is put under a condition therefore carries a random
token, by which it is known again.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_loaders.errors import BadInput
from data_loaders.storage.address import shown
from data_loaders.storage.opened import NoAnswer, Spot, answered, open_bucket, spot_of
from data_loaders.storage.place import Versioned

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

    from data_loaders.types import PathLike

T = TypeVar("T")
PART = 8 << 20  # bytes of one request when a file goes up or down
AT_ONCE = 8  # requests
TOKEN = "token"  # attribute of an object that was put under a condition
LAST = "zarr.json"  # of a folder that goes up: what makes it a store
TRIES, PAUSE = 6, 0.2  # of a conditional put and of a listing; seconds before the second, doubled for each further one


class BucketPlace:
    """An object, or all objects under a prefix.

    Parameters
    ----------
    spot : Spot
    given : dict or None
        Options that overrule those of `use_storage`.
    address : str
        As the user wrote it, for files of the web that an address signs.
    """

    is_remote = True

    def __init__(self, spot: Spot, given: Mapping[str, Any] | None = None, address: str = "") -> None:
        self.spot, self.given, self.address = spot, dict(given or {}), address
        self.key = spot.key

    @classmethod
    def at(cls, address: PathLike, given: Mapping[str, Any] | None = None) -> BucketPlace:
        """The place of an address."""
        return cls(spot_of(address), given, str(address))

    @property
    def name(self) -> str:
        """The last step of the key, or the bucket."""
        return self.key.rpartition("/")[2] or self.spot.base.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The address without password and query."""
        return shown(str(self))

    def __str__(self) -> str:
        return f"{self.spot.base}/{self.key}" if self.key else self.spot.base

    def __repr__(self) -> str:
        return f"place({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPlace) and (self.spot, self.given) == (other.spot, other.given)

    def __hash__(self) -> int:
        return hash(self.spot)

    def __truediv__(self, step: str) -> BucketPlace:
        step = step.strip("/")
        return self._at(f"{self.key}/{step}" if self.key else step)

    def beside(self, name: str) -> BucketPlace:
        """What has that name in the same folder."""
        if not self.key:
            raise BadInput(f"{self.shown}: a whole bucket; expected a name in it, as {self.shown}/{name}")
        folder, slash, _ = self.key.rpartition("/")
        return self._at(f"{folder}{slash}{name}")

    def read(self) -> bytes:
        """All bytes of an object."""
        import obstore

        with answered(self.shown), self._missing():
            return bytes(obstore.get(self.bucket, self.key).bytes())

    def read_versioned(self) -> Versioned | None:
        """All bytes of an object and its version."""
        import obstore

        try:
            with answered(self.shown):
                found = obstore.get(self.bucket, self.key)
                return Versioned(bytes(found.bytes()), _version(found.meta), found.meta["last_modified"].timestamp())
        except FileNotFoundError:
            return None

    def write(self, content: bytes | memoryview) -> None:
        """Write an object."""
        self.check_writable()
        import obstore

        with self._in_bucket(), answered(self.shown, "written"):
            obstore.put(self.bucket, self.key, content)

    def write_new(self, content: bytes) -> bool:
        """Write an object where none is."""
        return self._put(content, "create") is not None

    def replace(self, content: bytes, version: str) -> bool:
        """Write an object in place of that version of it."""
        return self._put(content, version) is not None

    def put(self, content: bytes, version: str) -> str | None:
        """As `replace`, or as `write_new` with the version `create`; returns the new version, None for False."""
        return self._put(content, version)

    def _put(self, content: bytes, version: str) -> str | None:
        self.check_writable()
        import obstore

        lost: tuple[type[Exception], ...] = (
            obstore.exceptions.AlreadyExistsError,
            obstore.exceptions.PreconditionError,
        )
        if version != "create":
            lost = (*lost, FileNotFoundError)
        token = secrets.token_hex(16)
        mode: Any = "create" if version == "create" else _update(version)
        for attempt in range(TRIES):
            try:
                with self._in_bucket(), answered(self.shown, "written"):
                    try:
                        done = obstore.put(self.bucket, self.key, content, mode=mode, attributes={TOKEN: token})
                        return _version(done)
                    except lost:
                        return self._version_of(token)  # ours, if an earlier try came through
            except BadInput:
                if attempt + 1 == TRIES:
                    raise
                time.sleep(PAUSE * 2**attempt)
        return None

    def _version_of(self, token: str) -> str | None:
        """The version of the object if it carries that token."""
        import obstore

        try:
            found = obstore.get(self.bucket, self.key, options={"head": True})
        except FileNotFoundError:
            return None
        return _version(found.meta) if found.attributes.get(TOKEN) == token else None

    def is_file(self) -> bool:
        """Whether there is an object."""
        import obstore

        if not self.key:
            return False
        try:
            with answered(self.shown):
                obstore.head(self.bucket, self.key)
            return True
        except FileNotFoundError:
            return False

    def is_folder(self) -> bool:
        """Whether there is an object under the prefix; never of the web, which lists nothing."""
        import obstore

        if self.spot.service == "http":
            return False
        return self._listed(lambda: any(obstore.list(self.bucket, self._prefix(), chunk_size=1)))

    def exists(self) -> bool:
        """Whether there is an object of that name, or under it."""
        return self.is_file() or self.is_folder()

    def size(self) -> int:
        """Bytes of an object."""
        import obstore

        with answered(self.shown), self._missing():
            return int(obstore.head(self.bucket, self.key)["size"])

    def files(self) -> list[str]:
        """All objects under the prefix."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """As `files`, with the bytes of each."""
        return {name: size for name, (size, _) in self.listing().items()}

    def listing(self) -> dict[str, tuple[int, str]]:
        """As `files`, with the bytes of each and its version."""
        import obstore

        start = len(self.key) + 1 if self.key else 0

        def look() -> dict[str, tuple[int, str]]:
            found = {}
            for batch in obstore.list(self.bucket, self._prefix()):
                for about in batch:
                    found[about["path"][start:]] = int(about["size"]), _version(about) or str(about["last_modified"])
            return found

        return dict(sorted((name, facts) for name, facts in self._listed(look).items() if name))

    def names(self) -> list[str]:
        """What is directly under the prefix."""
        import obstore

        found = self._listed(lambda: obstore.list_with_delimiter(self.bucket, self._prefix()))
        paths = [about["path"] for about in found["objects"]] + list(found["common_prefixes"])
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths if path.rstrip("/") != self.key})

    def remove(self) -> None:
        """Remove an object."""
        self.check_writable()
        import obstore

        with suppress(FileNotFoundError), answered(self.shown, "removed"):
            obstore.delete(self.bucket, self.key)

    def remove_tree(self) -> None:
        """Remove all objects under the prefix, and one of that name; the metadata of a store first."""
        self.check_writable()
        import obstore

        if not self.key:
            raise BadInput(f"{self.shown}: a whole bucket is not removed; expected a name in it")
        (self / LAST).remove()  # what is half removed opens no more
        keys = [f"{self.key}/{name}" for name in self.files()]
        with answered(self.shown, "removed"):
            for start in range(0, len(keys), 1000):
                with suppress(FileNotFoundError):
                    obstore.delete(self.bucket, keys[start : start + 1000])
        self.remove()

    def download(self, local: PathLike) -> Path:
        """Copy an object, or all under the prefix, to a path on a disk where nothing is."""
        local = Path(local)
        if self.key and self._is_signed():
            return _fetch(self.address, self.shown, local)
        if self.is_file():
            self._download_one(local)
            return local
        names = self.files() if self.spot.service != "http" else []
        if not names:
            raise FileNotFoundError(2, "no such object", self.shown)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda name: (self / name)._download_one(local / name), names):
                pass
        return local

    def pieces(self) -> Iterator[bytes]:
        """The bytes of an object one piece after the other, `AT_ONCE` of them asked for at once."""
        import obstore

        with answered(self.shown), self._missing():
            about = obstore.head(self.bucket, self.key)
        size, options = about["size"], {"if_match": about["e_tag"]} if about["e_tag"] else {}

        def part(start: int) -> bytes:
            ranged: Any = options | {"range": (start, min(start + PART, size))}
            with answered(self.shown):
                return bytes(obstore.get(self.bucket, self.key, options=ranged).bytes())

        with ThreadPoolExecutor(AT_ONCE) as threads:
            for start in range(0, size, PART * AT_ONCE):  # memory holds these at most
                yield from threads.map(part, range(start, min(start + PART * AT_ONCE, size), PART))

    def _download_one(self, local: Path) -> None:
        """Copy an object; all of one version."""
        local.parent.mkdir(parents=True, exist_ok=True)
        with open(local, "wb") as file:
            for piece in self.pieces():
                file.write(piece)

    def upload(self, local: PathLike, new: bool = False) -> None:
        """Copy a file or a folder from a disk to here."""
        self.check_writable()
        local = Path(local)
        if new and self.exists():
            raise BadInput(f"{self.shown}: exists already; expected an address where nothing is")
        if local.is_file():
            self._upload_one(local, new)
            return
        names = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda name: (self / name)._upload_one(local / name), set(names) - {LAST}):
                pass
        if LAST in names:
            (self / LAST)._upload_one(local / LAST, new)

    def _upload_one(self, local: Path, new: bool = False) -> None:
        import obstore

        if new and local.stat().st_size <= PART:  # larger ones go up in parts, which have no condition
            if not self.write_new(local.read_bytes()):
                raise BadInput(f"{self.shown}: exists already; expected an address where nothing is")
            return
        with self._in_bucket(), answered(self.shown, "written"):
            obstore.put(self.bucket, self.key, local, chunk_size=PART, max_concurrency=AT_ONCE)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """A copy on a disk, removed at the end; in the folder for temporary files."""
        folder = Path(tempfile.mkdtemp(prefix="storage-"))
        try:
            yield self.download(folder / (self.name or "object"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def zarr_store(self, read_only: bool = True) -> Any:
        """The zarr store of what is under the prefix; errors in one line."""
        from data_loaders.storage.zarr_store import ToldStore

        check = open_bucket(self.spot.base, self.spot.service, self.key, self.given)
        store = ToldStore(check, read_only=read_only)
        store.name = self.shown
        return store

    @property
    def bucket(self) -> Bucket:
        """The bucket, opened by obstore."""
        return open_bucket(self.spot.base, self.spot.service, given=self.given)

    def _at(self, key: str) -> BucketPlace:
        return BucketPlace(self.spot._replace(key=key), self.given)

    def _prefix(self) -> str | None:
        return f"{self.key}/" if self.key else None

    def check_writable(self) -> None:
        """Raise `BadInput` for an address of the web."""
        if self.spot.service == "http":
            raise BadInput(f"{self.shown}: the web is only read; expected a path on a disk, s3://, gs:// or az://")

    def _is_signed(self) -> bool:
        return self.spot.service == "http" and "?" in self.address

    def _listed(self, look: Callable[[], T]) -> T:
        """What a listing gives; one whose answer is cut is asked for again, which obstore leaves to its caller."""
        for attempt in range(TRIES):
            try:
                with self._in_bucket(), answered(self.shown, "listed"):
                    return look()
            except NoAnswer as error:
                if attempt + 1 == TRIES or "body" not in str(error):
                    raise
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError

    @contextmanager
    def _missing(self) -> Iterator[None]:
        """FileNotFoundError with the address, and without what the service said."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(2, "no such object", self.shown) from None

    @contextmanager
    def _in_bucket(self) -> Iterator[None]:
        """`BadInput` where what is missing is the bucket."""
        try:
            yield
        except FileNotFoundError:
            raise BadInput(f"{self.shown}: there is no such bucket; make it first") from None


def _version(about: Any) -> str:
    """Version of an object as text."""
    return "\n".join(about.get(key) or "" for key in ("e_tag", "version"))


def _update(version: str) -> dict[str, str]:
    """A version as obstore wants it."""
    tag, _, number = version.partition("\n")
    return {key: value for key, value in (("e_tag", tag), ("version", number)) if value}


def _fetch(address: str, name: str, local: Path) -> Path:
    """Copy a file of the web whose address is signed by its query."""
    import urllib.error
    import urllib.request

    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, open(local, "wb") as file:
            shutil.copyfileobj(answer, file, PART)
    except urllib.error.HTTPError as error:
        raise BadInput(f"{name}: cannot be read (HTTP {error.code} {error.reason})") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({getattr(error, 'reason', error)})") from None
    return local
