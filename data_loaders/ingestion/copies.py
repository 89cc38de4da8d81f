"""Sources at addresses: Zarr stores and SOMA experiments are read where they are, everything else is copied first.

HDF5, text and Parquet are read from a disk: each such source is copied once, to the folder for temporary files
(TMPDIR), and the copies go when the ingest ends. Messages, notes and the card name the addresses.
"""

from __future__ import annotations

import fnmatch
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_loaders.errors import BadInput
from data_loaders.files import temporary_folder
from data_loaders.reading.soma_store import is_soma
from data_loaders.storage import Place, as_address, is_remote, place, shown

if TYPE_CHECKING:
    from data_loaders.sources.source import Source
    from data_loaders.types import PathLike

log = logging.getLogger("data_loaders")
MEMBER = re.compile(r"(.+\.(?:h5mu|h5)):([^/:]+)")  # FILE.h5mu:NAME, FILE.h5:GENOME
IN_ZARR = ("zarr.json", ".zgroup", ".zattrs")
TENX = ("matrix.mtx", "matrix.mtx.gz")
PARQUET = (".parquet", ".pq")
SOURCES = (".h5ad", ".h5mu", ".h5", ".zarr", ".zarr.zip")


class Copies:
    """Copies of the sources of one ingest.

    Parameters
    ----------
    files : ExitStack
        The copies go when it is closed.
    """

    def __init__(self, files: ExitStack) -> None:
        self._files, self._folder = files, Path()
        self._local: dict[str, Path] = {}  # address -> copy

    def of_all(self, paths: dict[str, list[PathLike]] | list[PathLike]) -> dict[str, list[PathLike]] | list[PathLike]:
        """Paths, by modality or not, with copies in the place of addresses."""
        if isinstance(paths, dict):
            return {name: [self.of(path) for path in part] for name, part in paths.items()}
        return [self.of(path) for path in paths]

    def of(self, path: PathLike) -> PathLike:
        """The path of a source: as it is on a disk, and where it can be read in place; of its copy otherwise.

        Raises
        ------
        BadInput
            There is nothing, or the disk has no room for the copy.
        """
        if not is_remote(path) or _is_foreign(path):
            return path
        member = MEMBER.fullmatch(str(path))
        address, inside = (member[1], f":{member[2]}") if member else (str(path), "")
        found = place(address)
        is_signed = is_web(path) and "?" in address  # the address of a single file
        if not inside and not is_signed and is_read_in_place(found):
            return str(path)
        if address not in self._local:
            self._local[address] = self._copy(found, len(self._local), is_signed)
        return f"{self._local[address]}{inside}"

    def said(self, text: str) -> str:
        """A text with addresses in the place of copies."""
        for address, local in self._local.items():
            text = text.replace(str(local), shown(address))
        return text

    def named(self, source: Source) -> Source:
        """A source that was opened, which from now on is called by its address."""
        source.path, source.matrix.name = self.said(source.path), self.said(source.matrix.name)
        source.notes = [self.said(note) for note in source.notes]
        return source

    @contextmanager
    def by_address(self) -> Iterator[None]:
        """Let errors name addresses."""
        try:
            yield
        except BadInput as error:
            text = self.said(str(error))
            if text == str(error):
                raise
            raise BadInput(text) from error

    def _copy(self, found: Place, number: int, is_signed: bool) -> Path:
        if is_signed:
            sizes = {"": 0}  # not asked for: what signs it allows no more than reading it
        else:
            sizes = {"": found.size()} if found.is_file() else {} if is_web(str(found)) else found.sizes()
        if not sizes:
            raise BadInput(f"{found.shown}: nothing there; expected a source of counts")
        if not self._local:
            self._folder = self._files.enter_context(temporary_folder(Path(tempfile.gettempdir()) / "sources"))
        size, free = sum(sizes.values()), shutil.disk_usage(self._folder).free
        if size > free:
            raise BadInput(
                f"{found.shown}: {size:,} bytes, to be copied to {self._folder.parent} where {free:,} are free; set "
                "TMPDIR to a folder with more room"
            )
        shown_size = f"{size / 1e6:,.1f} MB are" if size else "is"
        log.info("%s: %s copied to a temporary file: only Zarr and SOMA are read in place", found.shown, shown_size)
        folder = self._folder / str(number)
        folder.mkdir()
        return found.download(folder / found.name)


def is_read_in_place(found: Place) -> bool:
    """Whether a Zarr store or a SOMA experiment is there."""
    if any((found / name).is_file() for name in IN_ZARR):
        return True
    return is_soma(str(found))


def remote_sources(path: str, notes: list[str]) -> list[str] | None:
    """The sources that an address with a pattern, or of a folder of sources, stands for; None for itself."""
    if _is_foreign(path):
        return None
    found = place(path)
    if is_web(path):
        return None
    if any(mark in path for mark in "*?["):
        return _matching(path, notes)
    if Path(found.name).suffix or found.is_file() or is_read_in_place(found):
        return None
    names = found.names()
    if any(name in TENX or name.endswith(PARQUET) for name in names):
        return None
    sources = [f"{found}/{name}" for name in names if name.lower().endswith(SOURCES)]
    kinds = sorted({Path(name).suffix for name in sources})
    if len(kinds) > 1:
        raise BadInput(f"{found.shown}: a folder with {', '.join(kinds)}; expected sources of one kind, or a pattern")
    if not sources:
        inside = [f"{found}/{name}" for name in names if any((found / name / one).is_file() for one in TENX)]
        sources = inside
    if sources:
        notes.append(f"{found.shown}: a folder of {len(sources):,} sources")
    return sources or None


def _matching(path: str, notes: list[str]) -> list[str]:
    """What matches a pattern; a star stands for anything but a slash."""
    address = str(as_address(path))
    steps = address.split("/")
    plain = next(i for i, step in enumerate(steps) if any(mark in step for mark in "*?["))
    if plain < 3:
        raise BadInput(f"{shown(path)}: a pattern in the name of a bucket; expected it behind that")
    level = [place("/".join(steps[:plain]))]
    for step in steps[plain:]:
        if any(mark in step for mark in "*?["):
            level = [one / name for one in level for name in one.names() if fnmatch.fnmatchcase(name, step)]
        else:
            level = [one / step for one in level if (one / step).exists()]
    if not level:
        raise BadInput(f"{shown(path)}: matches nothing; expected a file, a folder, or a pattern that matches some")
    notes.append(f"{shown(path)}: {len(level):,} paths match")
    return [str(one) for one in level]


def is_web(path: PathLike) -> bool:
    """Whether an address is of the web, which lists nothing."""
    return str(path).lower().startswith(("http:/", "https:/"))


def _is_foreign(path: PathLike) -> bool:
    """Whether an address is of a kind that only TileDB knows."""
    return str(path).startswith("tiledb:/")
