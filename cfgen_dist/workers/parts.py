"""The finished parts of a piece of work under way, in the folder `OUT.parts`: what is there need not be done again.

A note in the folder says whose parts they are. A part is a file of arrays, if it has any, and then a JSON record that
vouches for it, each written beside its place, flushed to disk and renamed. So whoever dies, whenever: a part is there
or it is not, and committing it twice, even at the same time, is harmless.
"""

import json
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_loaders.errors import BadInput
from data_loaders.files import write_whole
from data_loaders.types import Array, PathLike
from data_loaders.vouchers import sealed, sha256_of, unsealed

NOTE = "note.json"
# NumPy parses the header of a file with `ast`, which Python 3.11 cannot do in two threads at once: SystemError "AST
# constructor recursion depth mismatch", rarely (cpython#106905)
ONE_HEADER = threading.Lock()


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
    if (folder / NOTE).exists():
        if (folder / NOTE).read_bytes() != json.dumps(note).encode():
            raise BadInput(f"{folder} holds shards of another {same}: give the same arguments, or remove that folder")
        return folder
    folder.mkdir(exist_ok=True)
    write_whole(folder / NOTE, lambda file: file.write(json.dumps(note).encode()))
    return folder


class Ledger:
    """The parts in a folder that are of one piece of work.

    Parameters
    ----------
    folder : path-like
        On a disk that all workers see.
    work : str
        Digest of everything that the parts depend on: parts of other work do not count.
    """

    def __init__(self, folder: PathLike, work: str) -> None:
        self.folder, self.work = Path(folder), work

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
        if arrays is not None:
            path = self.arrays_path(part)
            # Not compressed: the file lives until parts are put together, and zlib would take longer than the work.
            write_whole(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
            record |= {"bytes": path.stat().st_size, "file_sha256": sha256_of(path)}
        write_whole(self.record_path(part), lambda file: file.write(json.dumps(sealed(record)).encode()))
        return record

    def record(self, part: str) -> dict[str, Any] | None:
        """The record of a part; None when it is missing, of other work, or its file is not of the size it says."""
        try:
            path = self.record_path(part)
            record: dict[str, Any] = unsealed(json.loads(path.read_text()), str(path))
            if (record["part"], record["work"]) != (part, self.work):
                return None
            whole = "bytes" not in record or self.arrays_path(part).stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
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
        with ONE_HEADER, np.load(self.arrays_path(part)) as file:
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
