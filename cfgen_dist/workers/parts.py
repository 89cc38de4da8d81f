"""The finished parts of a piece of work under way, in the folder `OUT.parts`: what is there need not be done again.

A note in the folder says whose parts they are. A part is a file of arrays, if it has any, and then a JSON record that
vouches for it, each written beside its place, flushed to disk and renamed. So whoever dies, whenever: a part is there
or it is not, and committing it twice, even at the same time, is harmless.
"""

import json
import logging
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from data_loaders.errors import BadInput
from data_loaders.files import write_whole
from data_loaders.records import Record, Sha256, Whole, parse_json, read_json, read_regular
from data_loaders.types import Array, PathLike
from data_loaders.vouchers import sealed, sha256_of, unsealed

log = logging.getLogger("cfgen_dist")
NOTE = "note.json"
# NumPy parses the header of a file with `ast`, which Python 3.11 cannot do in two threads at once: SystemError "AST
# constructor recursion depth mismatch", rarely (cpython#106905)
ONE_HEADER = threading.Lock()


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


def open_parts(
    out: PathLike, note: Mapping[str, Any], resume: bool, what: str = "generation", same: str = "plan"
) -> Path:
    """Make the folder of the parts with its note, or check that the one there is of the same work.

    Parameters
    ----------
    out : path-like
        What will be made; the folder is beside it.
    note : dict
        JSON that tells one piece of work from another.
    resume : bool
    what, same : str
        For messages: what is made, and what must be the same.

    Returns
    -------
    Path
        Absolute.

    Raises
    ------
    BadInput
        There is such a folder and `resume` was not asked for, or it has another note.
    """
    out = Path(out).absolute()
    folder = out.with_name(out.name + ".parts")
    if not out.parent.is_dir():
        raise BadInput(f"{out}: its folder {out.parent} does not exist")
    if folder.exists() and not resume:
        raise BadInput(f"{folder} holds an interrupted {what}: `resume=True` finishes it, or remove that folder")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: no folder; expected one, or nothing, for the finished parts: remove it")
    if (folder / NOTE).exists():
        found = _read_note(folder / NOTE)
        if found == json.dumps(note):
            return folder
        if found is not None:
            raise BadInput(f"{folder} holds shards of another {same}: give the same arguments, or remove that folder")
        log.warning("%s is damaged: written anew; parts of other work do not count", folder / NOTE)
        _make_way(folder / NOTE)
    folder.mkdir(exist_ok=True)
    write_whole(folder / NOTE, lambda file: file.write(json.dumps(note).encode()))
    return folder


def _read_note(path: Path) -> str | None:
    """The text of a note; None when it is damaged: no JSON at all."""
    try:
        text = read_regular(path, str(path))
        parse_json(text, Record, str(path))
        return text.decode()
    except (BadInput, OSError):
        return None


def _make_way(path: Path) -> None:
    """Remove a folder where a file belongs; a file is replaced by a rename."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


class Ledger:
    """The parts in a folder that are of one piece of work.

    Parameters
    ----------
    folder : path-like
        On a disk that all workers see.
    work : str
        Digest of everything that the parts depend on: parts of other work do not count.
    form : type of PartRecord
        What a record must be: one that is not does not count either, so its part is made again.
    """

    def __init__(self, folder: PathLike, work: str, form: type[PartRecord] = PartRecord) -> None:
        self.folder, self.work, self.form = Path(folder), work, form

    def arrays_path(self, part: str) -> Path:
        """Where the arrays of a part stand."""
        return self.folder / f"{part}.npz"

    def record_path(self, part: str) -> Path:
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
            path = self.arrays_path(part)
            # Not compressed: the file lives until parts are put together, and zlib would take longer than the work.
            write_whole(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
            record |= {"bytes": path.stat().st_size, "file_sha256": sha256_of(path)}
        write_whole(self.record_path(part), lambda file: file.write(json.dumps(sealed(record)).encode()))
        return record

    def recorded(self) -> Iterator[str]:
        """Names of the parts that have a record, whatever is in it: one listing of the folder."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and entry.name != NOTE:
                    yield entry.name.removesuffix(".json")

    def record(self, part: str) -> dict[str, Any] | None:
        """The record of a part; None when it is missing, damaged, of other work, or its file is not of its size."""
        try:
            path = self.record_path(part)
            record: dict[str, Any] = unsealed(read_json(path, self.form, any_number=True), str(path))
            if (record["part"], record["work"]) != (part, self.work):
                return None
            arrays = self.arrays_path(part)
            whole = arrays.stat().st_size == record["bytes"] if "bytes" in record else not arrays.exists()
        except (OSError, BadInput):
            return None
        return record if whole else None

    def whole_record(self, part: str) -> dict[str, Any] | None:
        """As `record`, but every byte of the file is looked at as well."""
        record = self.record(part)
        try:
            if record and "bytes" in record and sha256_of(self.arrays_path(part)) != record["file_sha256"]:
                return None
        except (OSError, KeyError):
            return None
        return record

    def arrays(self, part: str) -> dict[str, Array]:
        """The arrays of a part that is there, by name."""
        with ONE_HEADER, np.load(self.arrays_path(part), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def whole_arrays(self, part: str) -> dict[str, Array] | None:
        """The arrays of a part, by name; None when the part is missing or damaged."""
        try:
            return self.arrays(part) if self.whole_record(part) else None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def remove(self, parts: Iterable[str]) -> None:
        """Remove parts that are needed no more: records first."""
        for part in parts:
            self.record_path(part).unlink(missing_ok=True)
            self.arrays_path(part).unlink(missing_ok=True)
