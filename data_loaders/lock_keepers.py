"""Where a lock is kept: a file on a disk, or an object in a bucket; see `data_loaders.locks`."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from data_loaders.storage.bucket import BucketPlace

TAKEOVER = 30.0  # seconds after which somebody who died while taking a lock over is no longer waited for


class Found(NamedTuple):
    """A lock that is there."""

    content: bytes
    version: str  # changes with the content
    age: float  # seconds since the last sign of life, by the clock of the place


class Keeper(Protocol):
    """Where a lock is kept."""

    def put_new(self, content: bytes) -> bool:
        """Put the lock if none is there; whether that was so."""

    def find(self) -> Found | None:
        """The lock that is there, if any."""

    def put_over(self, content: bytes, version: str) -> bool:
        """Put the lock in place of that version of it; False when another is there by now."""

    def touch(self) -> None:
        """A sign of life."""

    def remove(self, version: str) -> None:
        """Remove the lock if it is still that version."""


class FileLock:
    """A lock that is a file, on a local or a shared disk; a `Keeper`.

    Parameters
    ----------
    path : Path
        Of the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put_new(self, content: bytes) -> bool:
        """Put the lock if none is there."""
        beside = self._beside(content)
        try:
            os.link(beside, self.path)  # atomic on NFS too, and the content is there at once
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            return self._create(content)  # a disk without hard links
        finally:
            beside.unlink()

    def find(self) -> Found | None:
        """The lock that is there."""
        from data_loaders.records import read_regular  # pydantic, which `--help` must not wait for

        try:
            content = read_regular(self.path, str(self.path), 1 << 16)
            touched = self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        beside = self._beside(b"")
        try:
            age = beside.stat().st_mtime - touched
        finally:
            beside.unlink()
        return Found(content, content.decode("utf-8", "replace"), age)

    def put_over(self, content: bytes, version: str) -> bool:
        """Put the lock over a dead owner's; who does so is alone, by a second lock that nobody keeps for long."""
        alone = FileLock(self.path.with_name(self.path.name + ".takeover"))
        there = alone.find()
        if there is not None and there.age > TAKEOVER:
            alone.path.unlink(missing_ok=True)
        if not alone.put_new(b""):
            return False
        try:
            found = self.find()
            if found is None:
                return self.put_new(content)
            if found.version != version:
                return False
            os.replace(self._beside(content), self.path)
            return True
        finally:
            alone.path.unlink(missing_ok=True)

    def touch(self) -> None:
        """Set the file's time to now, by the clock of the disk."""
        os.utime(self.path)

    def remove(self, version: str) -> None:
        """Remove the file."""
        found = self.find()
        if found is not None and found.version == version:
            self.path.unlink(missing_ok=True)

    def _beside(self, content: bytes) -> Path:
        """A new file with that content, in the same folder."""
        descriptor, beside = tempfile.mkstemp(prefix=f"{self.path.name}.", suffix=".partial", dir=self.path.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.chmod(beside, 0o644)
        return Path(beside)

    def _create(self, content: bytes) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:
            file.write(content)
        return True


class BucketLock:
    """A lock that is an object in a bucket; a `Keeper`.

    Parameters
    ----------
    place : BucketPlace
        Of the lock.
    """

    def __init__(self, place: BucketPlace) -> None:
        self.place = place
        self._mine = ("", "")  # content and version of what was put last

    def put_new(self, content: bytes) -> bool:
        """Put the lock if none is there."""
        return self._put(content, "create")

    def find(self) -> Found | None:
        """The lock that is there."""
        found = self.place.read_versioned()
        if found is None:
            return None
        text = found.content.decode("utf-8", "replace")
        return Found(found.content, text, 0.0 if text == self._mine[0] else self._now() - found.modified)

    def put_over(self, content: bytes, version: str) -> bool:
        """Put the lock over a dead owner's."""
        found = self.place.read_versioned()
        if found is None:
            return self.put_new(content)
        return found.content.decode("utf-8", "replace") == version and self._put(content, found.version)

    def touch(self) -> None:
        """Put the same content again."""
        content, version = self._mine
        self._put(content.encode(), version)

    def remove(self, version: str) -> None:
        """Remove the object."""
        found = self.place.read_versioned()
        if found is not None and found.content.decode("utf-8", "replace") == version:
            self.place.remove()

    def _put(self, content: bytes, version: str) -> bool:
        done = self.place.put(content, version)
        if done is not None:
            self._mine = (content.decode(), done)
        return done is not None

    def _now(self) -> float:
        """The time by the clock of the bucket."""
        beside = self.place.beside(f"{self.place.name}.{secrets.token_hex(8)}.clock")
        beside.write(b"")
        try:
            found = beside.read_versioned()
        finally:
            beside.remove()
        return time.time() if found is None else found.modified
