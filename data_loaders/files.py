"""Outputs that appear whole or not at all: made beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from data_loaders.errors import BadInput
from data_loaders.storage.address import is_remote, shown

if TYPE_CHECKING:
    from data_loaders.types import PathLike  # imports numpy, which `--help` must not wait for


WRITTEN = "this output is written to a disk alone; expected a path on a disk, to copy from"


def refuse_address(path: PathLike, why: str = WRITTEN) -> None:
    """Raise `BadInput` for an address, such as s3://bucket/name, which would be taken for a folder here.

    Parameters
    ----------
    path : path-like
    why : str
        What is expected in its place.
    """
    if is_remote(path) or str(path).startswith("file:/"):
        raise BadInput(f"{shown(path)}: {why}")


def refuse_existing(path: PathLike) -> Path:
    """Return `path` as a Path, or raise `BadInput` when something is there, its folder is missing, or on no disk."""
    refuse_address(path)
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path}: exists already; expected a path where nothing is")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path}: its folder {path.absolute().parent} does not exist; make it first")
    return path


def begin_output(path: PathLike) -> Path:
    """Make a new hidden folder beside `path` to build it in."""
    return _hidden_folder(refuse_existing(path).absolute(), ".partial")


def finish_output(built: PathLike, path: PathLike) -> None:
    """Flush the file or folder `built` to disk and give it its final name."""
    built, path = Path(built), refuse_existing(path).absolute()
    _flush(built)
    os.rename(built, path)
    _fsync(path.parent)


def replace_output(built: PathLike, path: PathLike) -> None:
    """Give the folder `built` the name of one that is there, or of none: the old one stays until the new one stands.

    A system call that fails puts the old one back. After a kill between two of them `restore_replaced` does.
    """
    built, path = Path(built), Path(path).absolute()
    restore_replaced(path)
    _flush(built)
    if not path.exists():
        finish_output(built, path)
        return
    old = _old(path)
    os.rename(path, old)
    try:
        os.rename(built, path)
        _fsync(path.parent)
    except BaseException:
        if path.exists():
            os.rename(path, built)
        os.rename(old, path)
        raise
    shutil.rmtree(old)


def restore_replaced(path: PathLike) -> None:
    """Put an output back that a killed `replace_output` had moved away, or remove it if the new one stands."""
    path = Path(path).absolute()
    old = _old(path)
    if old.is_dir():
        if path.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _flush(built: Path) -> None:
    """Flush a file or folder to disk, and let others read it."""
    entries = [built] if built.is_file() else [built, *built.rglob("*")]
    for entry in entries:
        _fsync(entry)
    if built.is_dir():
        built.chmod(0o777 & ~_umask())  # mkdtemp makes folders private


@contextmanager
def temporary_folder(beside: PathLike) -> Iterator[Path]:
    """A folder for intermediate files on the disk of `beside`, removed at the end whatever happens.

    Beside an address there is no disk: it is made in the folder for temporary files (TMPDIR).
    """
    path = Path(tempfile.gettempdir()) / Path(beside).name if is_remote(beside) else Path(beside).absolute()
    folder = _hidden_folder(path, ".tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hidden_folder(path: Path, suffix: str) -> Path:
    """A new folder beside `path`, named after it and this process; those of killed processes are removed first.

    A process number means something on one machine only, so the name has the machine too: other machines may write to
    the same shared disk.
    """
    prefix = f".{path.name}.{zlib.crc32(platform.node().encode()):08x}-"
    pattern = re.compile(re.escape(prefix) + r"(\d+)\..+\.(partial|tmp)")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(entry, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}.", suffix=suffix, dir=path.parent))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write one small file so that it appears whole or not at all, replacing what is there.

    Parameters
    ----------
    path : path-like
    write : callable
        Called with the file, open for writing bytes.
    """
    path = Path(path).absolute()
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    _fsync(path.parent)
