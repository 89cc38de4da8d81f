"""Files and folders on a disk; a `storage.place.Place`."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput
from data_loaders.storage.place import Versioned

if TYPE_CHECKING:
    from data_loaders.types import PathLike

PIECE = 1 << 20  # bytes read at once


class DiskPlace:
    """A file or folder on a disk.

    Parameters
    ----------
    path : Path
    """

    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Its last step."""
        return self.path.name

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"place({str(self)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiskPlace) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __truediv__(self, step: str) -> DiskPlace:
        return DiskPlace(self.path / step)

    def beside(self, name: str) -> DiskPlace:
        """What has that name in the same folder."""
        return DiskPlace(self.path.with_name(name))

    def read(self) -> bytes:
        """All bytes of a file."""
        return self.path.read_bytes()

    def pieces(self) -> Iterator[bytes]:
        """The bytes of a file one piece after the other."""
        with open(self.path, "rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def read_versioned(self) -> Versioned | None:
        """All bytes of a file and its version: its place on the disk, size and time."""
        try:
            with open(self.path, "rb") as file:
                return Versioned(file.read(), _version(os.fstat(file.fileno())), os.fstat(file.fileno()).st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, content: bytes | memoryview) -> None:
        """Write a file, whole or not at all; its folder is made if need be."""
        from data_loaders.files import write_whole

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, lambda file: file.write(content))

    def write_new(self, content: bytes) -> bool:
        """Write a file where none is; its folder is made if need be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._beside(content) as beside:
            try:
                os.link(beside, self.path)  # atomic on NFS too, and the content is there at once
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                    raise
        try:  # a disk without hard links
            with open(self.path, "xb") as file:
                file.write(content)
            return True
        except FileExistsError:
            return False

    def replace(self, content: bytes, version: str) -> bool:
        """Write a file in place of that version of it. A disk has no such call: a second file makes sure of it."""
        alone = self.beside(f"{self.name}.replacing")
        if not alone.write_new(b""):
            return False
        try:
            found = self.read_versioned()
            if found is None or found.version != version:
                return False
            self.write(content)
            return True
        finally:
            alone.remove()

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self.path.is_file()

    def is_folder(self) -> bool:
        """Whether there is a folder."""
        return self.path.is_dir()

    def exists(self) -> bool:
        """Whether something is there."""
        return self.path.exists() or self.path.is_symlink()

    def size(self) -> int:
        """Bytes of a file."""
        return self.path.stat().st_size

    def files(self) -> list[str]:
        """All files of a folder and the folders in it."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """As `files`, with the bytes of each."""
        files = [path for path in self.path.rglob("*") if path.is_file()] if self.path.is_dir() else []
        return dict(sorted((_from(self.path, path), path.stat().st_size) for path in files))

    def names(self) -> list[str]:
        """Files and folders directly in a folder."""
        return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []

    def remove(self) -> None:
        """Remove a file."""
        self.path.unlink(missing_ok=True)

    def remove_tree(self) -> None:
        """Remove a file or a folder with all that is in it."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def download(self, local: PathLike) -> Path:
        """Copy a file or a folder to a path where nothing is."""
        return _copy(self.path, Path(local))

    def upload(self, local: PathLike, new: bool = False) -> None:
        """Copy a file or a folder to here."""
        if new and self.exists():
            raise BadInput(f"{self.path}: exists already; expected a path where nothing is")
        if Path(local).is_dir():
            _copy(Path(local), self.path)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._beside(b"") as beside:
                shutil.copyfile(local, beside)
                os.replace(beside, self.path)

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The path itself."""
        yield self.path

    def zarr_store(self, read_only: bool = True) -> Any:
        """The zarr store of the folder."""
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=read_only)

    @contextmanager
    def _beside(self, content: bytes) -> Iterator[Path]:
        """A new file with that content in the same folder, removed at the end."""
        descriptor, beside = tempfile.mkstemp(prefix=f".{self.name}.", suffix=".partial", dir=self.path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.chmod(beside, 0o644)
            yield Path(beside)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(beside)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _from(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _copy(source: Path, target: Path) -> Path:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return target
