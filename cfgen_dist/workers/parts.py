"""The finished parts of a piece of work under way, in the folder `OUT.parts`: what is there need not be done again.

A note in the folder says whose parts they are. A part is a file of arrays, if it has any, and then a JSON record that
vouches for it. Each appears whole or not at all: on a disk it is written beside its place, flushed and renamed; in a
bucket it is there with its last byte. So whoever dies, whenever: a part is there or it is not, and committing it twice,
even at the same time, is harmless. The parts of an output in a bucket are in that bucket, and are the same bytes as on
a disk would be: whoever goes on, on whatever machine, needs no more than the bucket.
"""

import json
import logging
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np
from pydantic import model_validator

from data_loaders.errors import BadInput
from data_loaders.files import write_whole
from data_loaders.records import Record, Sha256, Whole, parse_json, read_regular
from data_loaders.storage import Place, place
from data_loaders.storage.opened import NoAnswer
from data_loaders.types import Array, PathLike
from data_loaders.vouchers import sealed, sha256_of, unsealed

log = logging.getLogger("cfgen_dist")
NOTE = "note.json"
AT_ONCE = 16  # requests: each takes a round trip
# NumPy parses the header of a file with `ast`, which Python 3.11 cannot do in two threads at once: SystemError "AST
# constructor recursion depth mismatch", rarely (cpython#106905)
ONE_HEADER = threading.Lock()
Result = TypeVar("Result")


class PartRecord(Record):
    """The form of a record; what else is in it belongs to who made the part."""

    part: str
    work: str
    bytes: Whole | None = None
    file_sha256: Sha256 | None = None
    checksum: Sha256 | None = None

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.bytes is None) != (self.file_sha256 is None):
            raise ValueError("bytes without file_sha256, or the reverse")
        return self


def parts_place(out: PathLike | Place) -> Place:
    """The folder of the parts of an output, beside it."""
    target = place(out)
    return target.beside(target.name + ".parts")


def open_parts(
    out: PathLike | Place, note: Mapping[str, Any], resume: bool, what: str = "generation", same: str = "plan"
) -> Place:
    """Make the folder of the parts with its note, or check that the one there is of the same work.

    Parameters
    ----------
    out : path-like or Place
        What will be made; the folder is beside it.
    note : dict
        JSON that tells one piece of work from another.
    resume : bool
    what, same : str
        For messages: what is made, and what must be the same.

    Returns
    -------
    Place
        On a disk an absolute path.

    Raises
    ------
    BadInput
        There is such a folder and `resume` was not asked for, or it has another note.
    """
    out = place(out)
    if not out.is_remote:
        out = place(Path(str(out)).absolute())
        if not Path(str(out)).parent.is_dir():
            raise BadInput(f"{out}: its folder {Path(str(out)).parent} does not exist")
    folder = parts_place(out)
    exists = folder.exists()
    if exists and not resume:
        raise BadInput(f"{folder.shown} holds an interrupted {what}: `resume=True` finishes it, or remove that folder")
    if exists and not folder.is_folder():
        raise BadInput(f"{folder.shown}: no folder; expected one, or nothing, for the finished parts: remove it")
    if exists and (folder / NOTE).exists():
        found = _read_note(folder / NOTE)
        if found == json.dumps(note):
            return folder
        if found is not None:
            raise BadInput(
                f"{folder.shown} holds shards of another {same}: give the same arguments, or remove that folder"
            )
        log.warning("%s is damaged: written anew; parts of other work do not count", (folder / NOTE).shown)
        _make_way(folder / NOTE)
    (folder / NOTE).write(json.dumps(note).encode())
    return folder


def _read_note(path: Place) -> str | None:
    """The text of a note; None when it is damaged: no JSON at all."""
    try:
        text = _read(path)
        parse_json(text, Record, path.shown)
        return text.decode()
    except NoAnswer:
        raise
    except (BadInput, OSError):
        return None


def _read(path: Place) -> bytes:
    """The bytes of a small file; FileNotFoundError, or BadInput for what is no regular file."""
    return path.read() if path.is_remote else read_regular(str(path), path.shown)


def _make_way(path: Place) -> None:
    """Remove a folder where a file belongs; a file is replaced. In a bucket neither is in the way of the other."""
    if not path.is_remote and path.is_folder():
        path.remove_tree()


class Ledger:
    """The parts in a folder that are of one piece of work.

    Parameters
    ----------
    folder : path-like or Place
        That all workers see: on a disk, or in a bucket.
    work : str
        Digest of everything that the parts depend on: parts of other work do not count.
    form : type of PartRecord
        What a record must be: one that is not does not count either, so its part is made again.
    """

    def __init__(self, folder: PathLike | Place, work: str, form: type[PartRecord] = PartRecord) -> None:
        self.folder, self.work, self.form = place(folder), work, form

    def arrays_path(self, part: str) -> Place:
        """Where the arrays of a part stand."""
        return self.folder / f"{part}.npz"

    def record_path(self, part: str) -> Place:
        """Where the record of a part stands."""
        return self.folder / f"{part}.json"

    def commit(self, part: str, arrays: Mapping[str, Array] | None = None, **facts: Any) -> dict[str, Any]:
        """Keep a part: its arrays, then its record.

        Parameters
        ----------
        part : str
            Its name.
        arrays : dict of str to array, optional
        **facts
            JSON that is kept in the record.

        Returns
        -------
        dict
            The record: `part`, `work`, the facts, and of the file of arrays `bytes` and `file_sha256`.
        """
        record = {"part": part, "work": self.work} | facts
        for path in (self.arrays_path(part), self.record_path(part)):
            _make_way(path)
        if arrays is not None:
            # Not compressed: the file lives until parts are put together, and zlib would take longer than the work.
            record |= write_file(self.arrays_path(part), lambda file: np.savez(file, **arrays), _facts)  # type: ignore[arg-type]
        self.record_path(part).write(json.dumps(sealed(record)).encode())
        return record

    def recorded(self) -> set[str]:
        """Names of the parts that have a record, whatever is in it: one listing of the folder."""
        return set(_recorded(self.folder.names()))

    def each(self, function: Callable[[str], Result], parts: Iterable[str]) -> Iterator[Result]:
        """`function` of the names of some parts, in their order; in a bucket, which takes a while, at once."""
        if not self.folder.is_remote:
            yield from map(function, parts)
            return
        with ThreadPoolExecutor(AT_ONCE) as threads:
            yield from threads.map(function, parts)

    def records(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """The name of every part that is recorded, and what `record` gives of it."""
        sizes = self.folder.sizes() if self.folder.is_remote else None
        parts = _recorded(self.folder.names() if sizes is None else sizes)
        yield from zip(parts, self.each(lambda part: self._record(part, sizes), parts), strict=True)

    def record(self, part: str) -> dict[str, Any] | None:
        """The record of a part; None when it is missing, damaged, of other work, or its file is not of its size."""
        return self._record(part)

    def _record(self, part: str, sizes: Mapping[str, int] | None = None) -> dict[str, Any] | None:
        """As `record`; `sizes` of the files of the folder, where they have been listed."""
        path, arrays = self.record_path(part), self.arrays_path(part)
        try:
            found = parse_json(_read(path), self.form, path.shown, any_number=True)
            record: dict[str, Any] = unsealed(found, path.shown)
            if (record["part"], record["work"]) != (part, self.work):
                return None
            if sizes is not None:
                return record if sizes.get(arrays.name) == record.get("bytes") else None
            return record if (arrays.size() == record["bytes"] if "bytes" in record else not arrays.exists()) else None
        except NoAnswer:
            raise
        except (OSError, BadInput):
            return None

    def whole_record(self, part: str) -> dict[str, Any] | None:
        """As `record`, but every byte of the file is looked at as well."""
        record = self.record(part)
        if record is None or "bytes" not in record:
            return record
        try:
            with self.arrays_path(part).local() as file:
                return record if sha256_of(file) == record["file_sha256"] else None
        except (OSError, KeyError):
            return None

    def arrays(self, part: str) -> dict[str, Array]:
        """The arrays of a part that is there, by name."""
        with self.arrays_path(part).local() as file:
            return _load(file)

    def whole_arrays(self, part: str) -> dict[str, Array] | None:
        """The arrays of a part, by name; None when the part is missing or damaged."""
        found = self.whole(part)
        return None if found is None else found[1]

    def whole(self, part: str) -> tuple[dict[str, Any], dict[str, Array]] | None:
        """The record of a part and its arrays, every byte of them looked at; None when it is missing or damaged."""
        record = self.record(part)
        if record is None or "bytes" not in record:
            return None
        try:
            with self.arrays_path(part).local() as file:
                return (record, _load(file)) if sha256_of(file) == record["file_sha256"] else None
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, NoAnswer):
                raise
            return None

    def remove(self, parts: Iterable[str]) -> None:
        """Remove parts that are needed no more: records first."""

        def remove(part: str) -> None:
            self.record_path(part).remove()
            self.arrays_path(part).remove()

        for _ in self.each(remove, parts):
            pass


def write_file(path: Place, write: Callable[[BinaryIO], object], then: Callable[[Path], Result]) -> Result:
    """Write a file, whole or not at all; to a bucket from a temporary file, which goes up in pieces.

    Parameters
    ----------
    path : Place
    write : callable
        Called with a file, open for writing bytes.
    then : callable
        Called with the file on a disk when all is written; a temporary one is removed after that. Its result is
        returned.
    """
    if not path.is_remote:
        target = Path(str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, write)
        return then(target)
    with tempfile.TemporaryDirectory(prefix="cfgen-part-") as folder:
        local = Path(folder) / path.name
        with open(local, "wb") as file:
            write(file)
        path.upload(local)
        return then(local)


def _recorded(names: Iterable[str]) -> list[str]:
    """The parts whose records are among some names."""
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and name != NOTE]


def _facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "file_sha256": sha256_of(file)}


def _load(file: Path) -> dict[str, Array]:
    with ONE_HEADER, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
