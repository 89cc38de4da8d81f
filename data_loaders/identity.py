"""The id of a store: what names it, however often it is copied, and whatever becomes of its contents.

The id of an atlas is drawn once, when it is begun. A store that is a function of a plan has the id of the plan, so that
it is the same store, to the byte, whenever and by however many workers it is made.
"""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data_loaders.types import PathLike

DIGITS = 32  # hexadecimal, 128 bits
ATTRIBUTE = "id"  # of the root of a store; a program that writes the store anew does not carry it over
StoreId = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGITS}}}$")]


def new_id() -> str:
    """A random id."""
    return secrets.token_hex(DIGITS // 2)


def id_of(plan: str) -> str:
    """The id of what is made by a plan, given as a text or a digest that no other plan has."""
    return hashlib.sha256(f"store {plan}".encode()).hexdigest()[:DIGITS]


def which(found: str | None, expected: str | None) -> str:
    """Whether a store is another one than was expected, or the same with other contents; empty where no id tells."""
    if found is None or expected is None:
        return ""
    if found == expected:
        return f"it is the same store (id {found[:8]}) with other contents"
    return f"it is another store (id {found[:8]}, expected {expected[:8]})"


def digest_without_id(store: PathLike) -> str:
    """SHA-256 over the files of a store in a local folder, its id left out: equal for stores made alike.

    The id is in the metadata of the root and in the card, and the manifest has their checksums: of the metadata and the
    card all the rest is compared, the manifest is left out.
    """
    import zarr

    folder, digest = Path(store), hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = path.relative_to(folder).as_posix()
        if key == "uns/atlas_files/c":
            continue
        content = path.read_bytes()
        if key == "uns/atlas_card/c":
            card: Any = zarr.open_array(folder / "uns/atlas_card", mode="r")[()]
            content = _without_id(json.loads(str(card)))
        elif key == "zarr.json":
            root = json.loads(content)
            root.pop("consolidated_metadata", None)
            content = _without_id(root | {"attributes": json.loads(_without_id(root["attributes"]))})
        digest.update(f"{key} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _without_id(facts: dict[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in facts.items() if key != ATTRIBUTE}, sort_keys=True).encode()
