"""Checksums kept apart from what they are of: a file `NAME.sha256` beside a file, and a key of a JSON record.

Paths are those of files on a disk, or addresses in a bucket.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_loaders.errors import BadInput
from data_loaders.records import read_regular
from data_loaders.storage import is_remote, local_copy, place, shown

if TYPE_CHECKING:
    from data_loaders.storage import Place
    from data_loaders.types import PathLike

SUFFIX = ".sha256"
KEY = "checksum"  # of a JSON record: the SHA-256 of all others


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, hexadecimal."""
    with local_copy(path) as copy, open(copy, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_vouched(path: PathLike, content: bytes | memoryview, before: str | None = None) -> str:
    """Write a file, replacing what is there, and `NAME.sha256` beside it, in the form of `sha256sum`.

    The checksums come first and name the old contents as well as the new: whoever dies in between leaves a file that
    they vouch for.

    Parameters
    ----------
    path : path-like
    content : bytes
    before : str, optional
        SHA-256 of what is there, where it is known.

    Returns
    -------
    str
        SHA-256 of the new contents.
    """
    digest = hashlib.sha256(content).hexdigest()
    if before is None and place(path).is_file():
        before = sha256_of(path) if is_vouched(path) else None
    _vouch(path, [digest] if before is None else [digest, before])
    place(path).write(content)
    return digest


def vouch(path: PathLike) -> None:
    """Note the checksum of a file that is there, and will not change."""
    _vouch(path, [sha256_of(path)])


def is_vouched(path: PathLike) -> bool:
    """Whether the contents of a file are those of its checksum; also where one of the two is not there."""
    beside = _beside(path)
    try:
        lines = read_regular(str(beside), beside.shown, 1 << 16).splitlines()
    except FileNotFoundError:
        return True
    return not place(path).is_file() or sha256_of(path).encode() in [line[:64] for line in lines]


def check_vouched(path: PathLike, way_on: str) -> None:
    """Raise `BadInput` when the contents of a file are not those of its checksum; `way_on` ends the message."""
    if not is_remote(path) and os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise BadInput(f"{path} is damaged (no regular file){way_on}")
    if not is_vouched(path):
        raise BadInput(f"{shown(path)} is damaged (its SHA-256 is not the one in {_beside(path).name}){way_on}")


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON record with the checksum of its values."""
    plain: dict[str, Any] = json.loads(json.dumps(values))  # as they will be read: keys are text then
    return {**plain, KEY: _digest(plain)}


def write_sealed(path: PathLike, values: Mapping[str, Any], indent: int | None = None, any_number: bool = True) -> None:
    """Write a JSON record with the checksum of its values, whole or not at all.

    Raises
    ------
    ValueError
        For NaN and infinity unless they are `any_number`.
    """
    text = json.dumps(sealed(values), indent=indent, allow_nan=any_number)
    place(path).write(text.encode())


def unsealed(values: Any, name: str, way_on: str = "restore it, or remove it") -> Any:
    """The values of a JSON record that was read, without their checksum.

    Parameters
    ----------
    values : dict
        Records written before there were checksums have none; what is no dict is returned as it is.
    name : str
        For messages.
    way_on : str
        End of the message.

    Raises
    ------
    BadInput
        When the checksum is another one.
    """
    if not isinstance(values, dict) or KEY not in values:
        return values
    rest = {key: value for key, value in values.items() if key != KEY}
    if _digest(rest) != values[KEY]:
        raise BadInput(f"{name} was changed after it was written: its {KEY} is not that of its values; {way_on}")
    return rest


def _vouch(path: PathLike, digests: list[str]) -> None:
    text = "".join(f"{digest}  {place(path).name}\n" for digest in digests)
    _beside(path).write(text.encode())


def _beside(path: PathLike) -> Place:
    return place(path).beside(place(path).name + SUFFIX)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
