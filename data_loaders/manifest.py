"""The manifest of a store that we write: size and CRC-32 of every file, kept as one JSON text in `uns["atlas_files"]`.

A store is closed by `seal`. Whoever opens it looks at each file it reads: metadata and small arrays whole, shards by
their size and their end, where the index is, which vouches for the chunks in front of it. So a file that is lost,
damaged, or that of another store is an error and not other numbers. The digest over the data files is the store's
identity: equal for equal data, different for any other, whatever clocks say.

The checksum is CRC-32 and not the CRC-32C of the chunks: of bytes that end in their own CRC-32C, as chunks and shards
do, the CRC-32C is always the same.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import zarr
from zarr.storage import LocalStore

from data_loaders.errors import BadInput
from data_loaders.identity import ATTRIBUTE, which

if TYPE_CHECKING:
    from data_loaders.storage import Place

ELEMENT = "atlas_files"  # in uns
SEALED = "sealed"  # attribute of the root of a store that has a manifest; anndata does not carry it over
ROOT = "zarr.json"
TAIL = 1 << 13  # bytes at the end of a file: the index of a shard (at most 4 kB) and the end of its last chunk
BLOCK = 1 << 20  # bytes read at once
CHANGED = "the store is damaged or still being written, or was changed or replaced after it was opened"

Facts: TypeAlias = dict[str, list[int]]  # of files, see `Manifest.files`


class Manifest:
    """What is known of the files of a store.

    Parameters
    ----------
    text : str
        As `seal` wrote it.
    name : str
        Path of the store, for messages.
    identity : str, optional
        The id of the store, see `data_loaders.identity`.
    folder : Path, optional
        Where it is on this machine: messages then say whether another store is there by now.

    Attributes
    ----------
    files : dict
        Key → [bytes, CRC-32, CRC-32 of the last `TAIL` bytes where the file is longer]. Of the metadata of the root
        the checksum is over its contents without the copy of all metadata that `zarr.consolidate_metadata` adds.
    contents : str
        SHA-256 over sizes and checksums of the data files: all but metadata and `uns`.

    Raises
    ------
    BadInput
        When the text is damaged.
    """

    def __init__(self, text: str, name: str, identity: str | None = None, folder: Path | None = None) -> None:
        self.name, self.identity, self._folder = name, identity, folder
        digest, _, body = text.partition("\n")
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise BadInput(f"{name}: uns/{ELEMENT} is damaged or missing; {CHANGED}")
        self.files: Facts = json.loads(body)
        data = [(key, *facts) for key, facts in self.files.items() if not _is_metadata(key)]
        self.contents = hashlib.sha256(json.dumps(data).encode()).hexdigest()

    def __contains__(self, key: str) -> bool:
        return key in self.files

    def check_size(self, key: str, size: int | None) -> None:
        """Raise `BadInput` unless a file has the size it should have; None: there is none."""
        facts = self.files.get(key)
        if facts is None or key == ROOT:
            return
        if size is None:
            raise self._error(key, "is missing")
        if size != facts[0]:
            raise self._error(key, f"has {size:,} bytes, expected {facts[0]:,}")

    def check_stray(self, key: str) -> None:
        """Raise `BadInput` for a file that was added to an array: where a chunk has none, it is all fill value."""
        array, _, chunk = key.partition("/c/")
        if chunk and f"{array}/{ROOT}" in self.files and array != f"uns/{ELEMENT}":
            raise self._error(key, "was added")

    def check_tail(self, key: str, tail: bytes) -> None:
        """Raise `BadInput` unless a file ends as it should; `tail` are its last `TAIL` bytes, or all."""
        facts = self.files.get(key)
        if facts is not None and zlib.crc32(tail) != facts[-1]:
            raise self._error(key, "has a wrong checksum")

    def check_whole(self, key: str, content: bytes | None) -> None:
        """Raise `BadInput` unless a file has the bytes it should have; None: there is none."""
        if key == ROOT and content is not None:
            if key in self.files and zlib.crc32(_root_facts(content)) != self.files[key][1]:
                raise self._error(key, "has a wrong checksum")
            return
        self.check_size(key, None if content is None else len(content))
        if content is not None and key in self.files and zlib.crc32(content) != self.files[key][1]:
            raise self._error(key, "has a wrong checksum")

    def _error(self, key: str, what: str) -> BadInput:
        element = key.partition("/c/")[0].removesuffix("/c").removesuffix(f"/{ROOT}")
        told = which(self._identity_now(), self.identity)
        way = f": {told}" if told else ""
        return BadInput(f"{self.name}: {element} cannot be read: the file {key} {what}; {CHANGED}{way}")

    def _identity_now(self) -> str | None:
        """The id of the store that is in the folder by now; None where that cannot be told."""
        try:
            found = None if self._folder is None else json.loads((self._folder / ROOT).read_bytes())
            return None if found is None else str(found["attributes"][ATTRIBUTE])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def fault(self, root: Place, key: str) -> str | None:
        """What is wrong with a file of a store, every byte looked at; None when nothing is."""
        expected = self.files[key]
        try:
            facts = facts_of_bytes(key, (root / key).read()) if key == ROOT else facts_of_pieces((root / key).pieces())
        except FileNotFoundError:
            return f"{key} is missing"
        if key == ROOT:
            return None if facts[1] == expected[1] else f"{key} was changed"
        if facts[0] != expected[0]:
            return f"{key} has {facts[0]:,} bytes, expected {expected[0]:,}"
        return None if facts[1] == expected[1] else f"{key} has a wrong checksum"

    def check_cheaply(self, root: Path) -> None:
        """Raise `BadInput` when a file of a store in a local folder is missing, or has another size or end."""
        for key, facts in self.files.items():
            path = root / key
            if key == ROOT or facts[0] <= TAIL:
                self.check_whole(key, path.read_bytes() if path.is_file() else None)
                continue
            self.check_size(key, path.stat().st_size if path.is_file() else None)
            with open(path, "rb") as file:
                file.seek(-TAIL, 2)
                self.check_tail(key, file.read())


def seal(root: zarr.Group, facts: Callable[[], Facts]) -> None:
    """Close a store that is complete: note size and checksum of all its files.

    Parameters
    ----------
    root : zarr.Group
        The store, open for writing, with its `uns`.
    facts : callable
        Gives size and checksums of the files that are there, see `facts_of`.
    """
    from data_loaders.writing.arrays import write_small

    root.attrs[SEALED] = True
    write_small(root, f"uns/{ELEMENT}", "")  # its metadata are noted as well
    own = f"uns/{ELEMENT}/c"
    body = json.dumps({key: found for key, found in sorted(facts().items()) if key != own}, separators=(",", ":"))
    element: Any = root[f"uns/{ELEMENT}"]
    element[()] = f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def read_manifest(root: zarr.Group, name: str) -> tuple[Manifest | None, bool]:
    """The manifest of a store that is opened, and whether its card may be believed.

    Returns
    -------
    manifest : Manifest or None
        None for a store that has none, and for one that another program wrote from one that has.
    is_believed : bool
        Whether what `uns` says of the store is about these files: not when another program wrote them.

    Raises
    ------
    BadInput
        When the manifest or the metadata of the root are damaged.
    """
    is_sealed = bool(root.attrs.get(SEALED))
    try:
        element: Any = root.get(f"uns/{ELEMENT}")
        text = "" if element is None else str(element[()])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{name}: uns/{ELEMENT} cannot be read ({reason}); {CHANGED}") from error
    if not is_sealed and element is None:
        return None, True
    identity = root.attrs.get(ATTRIBUTE)
    folder = root.store.root / root.path if isinstance(root.store, LocalStore) else None
    manifest = Manifest(text, name, identity if isinstance(identity, str) else None, folder)
    if not is_sealed:
        ours = [key for key in ("X/data", "X/indices", "X/indptr", "X") if f"{key}/{ROOT}" in manifest]
        if not any(_is_ours(root, manifest, key) for key in ours[: 3 if len(ours) > 1 else 1]):
            return None, False  # every array was laid out anew: no damage does that
        raise BadInput(f"{name}: the file {ROOT} has a wrong checksum; {CHANGED}")
    return manifest, True


def _is_ours(root: zarr.Group, manifest: Manifest, key: str) -> bool:
    """Whether the metadata of an array are those that were written."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    path = "/".join(part for part in (root.path, key, ROOT) if part)
    found = sync(root.store.get(path, default_buffer_prototype()))
    return found is not None and zlib.crc32(found.to_bytes()) == manifest.files[f"{key}/{ROOT}"][1]


def _is_metadata(key: str) -> bool:
    return key.startswith("uns/") or key.endswith(ROOT)


def facts_of(folder: Path) -> Facts:
    """Size and checksums of all files of a store in a local folder, as `Manifest.files`."""
    keys = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {key: _facts(folder, key) for key in keys}


def facts_of_bytes(key: str, content: bytes | memoryview) -> list[int]:
    """The same of one file whose bytes are here."""
    if key == ROOT:
        return [len(content), zlib.crc32(_root_facts(bytes(content)))]
    size, crc = len(content), zlib.crc32(content)
    return [size, crc] if size <= TAIL else [size, crc, zlib.crc32(content[-TAIL:])]


def _facts(folder: Path, key: str) -> list[int]:
    """Size and checksums of a file."""
    if key == ROOT:
        return facts_of_bytes(key, (folder / key).read_bytes())
    with open(folder / key, "rb") as file:
        return facts_of_pieces(iter(partial(file.read, BLOCK), b""))


def facts_of_pieces(pieces: Iterable[bytes]) -> list[int]:
    """Size and checksums of a file that is no metadata of the root, from its bytes piece by piece."""
    size, crc, tail = 0, 0, b""
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        tail = piece[-TAIL:] if len(piece) >= TAIL else (tail + piece)[-TAIL:]
    return [size, crc] if size <= TAIL else [size, crc, zlib.crc32(tail)]


def _root_facts(content: bytes) -> bytes:
    """The metadata of the root without the copy of all metadata, in one form; what is no JSON as it is."""
    try:
        metadata = json.loads(content)
        metadata.pop("consolidated_metadata", None)
        return json.dumps(metadata, sort_keys=True).encode()
    except (ValueError, AttributeError, RecursionError):
        return content
