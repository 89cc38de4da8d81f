"""What is an address of object storage, and how it may be shown. Nothing here imports what reaches storage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from data_loaders.errors import BadInput

if TYPE_CHECKING:
    from data_loaders.types import PathLike  # imports numpy, which `--help` must not wait for

BUCKETS = {"s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az", "azure": "az"}
WEB = ("http", "https")
EXPECTED = "expected a path on a disk, or an address that begins with s3://, gs://, az://, or to read http(s)://"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+")
_USER = re.compile(r"(://)[^/\s@\"']*@")  # name and password before the host
_QUERY = re.compile(r"\?[^\s\"'<>)\]}]*")  # of an address: signatures, tokens
_SECRET = re.compile(r"(?i)\b(x-amz-[\w-]+|sig(?:nature)?|[\w-]*token|[\w-]*secret[\w-]*|authorization|password)\b"
                     r"(\"?\s*[=:]\s*\"?)[^\s\"',;&<>)\]}]+")  # fmt: skip


def as_address(path: PathLike) -> str | None:
    """The address that a path is, or None for a path on a disk.

    `pathlib.Path` makes `s3:/bucket/name` of an address; that is understood too.

    Raises
    ------
    BadInput
        For an address of a kind that is not known, as `ftp://host/file`.
    """
    text = str(path)
    match = _SCHEME.match(text)
    if match is None or Path(text).drive:  # C:/ of Windows
        return None
    scheme = match[1].lower()
    if scheme == "file":
        return None
    if scheme not in BUCKETS and scheme not in WEB:
        raise BadInput(f"{shown(text)}: addresses with {match[1]}:// are not known; {EXPECTED}")
    return f"{scheme}://{text[match.end() :]}"


def is_remote(path: PathLike) -> bool:
    """Whether a path is an address of object storage or of the web; of whatever kind, known or not."""
    match = _SCHEME.match(str(path))
    return match is not None and match[1].lower() != "file" and not Path(path).drive


def on_disk(path: PathLike) -> Path:
    """A path on a disk as a Path; `file:///a/b` is one."""
    text = str(path)
    if text.lower().startswith("file:/"):
        from urllib.parse import unquote

        text = "/" + unquote(text[5:]).lstrip("/")
    return Path(text)


def shown(path: PathLike) -> str:
    """A path, or an address without its query and without a password: what may be shown, logged and kept."""
    text = str(path)
    if not is_remote(text):
        return text
    return _USER.sub(r"\1", text).partition("?")[0].partition("#")[0]


def told(error: BaseException) -> str:
    """What a library of object storage says of an error, on one line, without what signs an address."""
    from data_loaders.records import one_line  # pydantic, which `--help` must not wait for

    text = _USER.sub(r"\1", _QUERY.sub("", str(error).partition("\n\n")[0]))
    return one_line(_SECRET.sub(r"\1\2...", text))
