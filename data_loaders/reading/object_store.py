"""What object storage answers when it fails, in one line that holds no secret; and a Zarr store that says it so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import obstore
from zarr.storage import ObjectStore

from data_loaders.errors import BadInput
from data_loaders.records import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

QUERY = re.compile(r"\?[^\s\"'<>)\]}]*")  # of an address: signatures, tokens
USER = re.compile(r"(://)[^/\s@\"']*@")  # name and password before the host
SECRET = re.compile(r"(?i)\b(x-amz-[\w-]+|sig(?:nature)?|[\w-]*token|[\w-]*secret[\w-]*|authorization|password)\b"
                    r"(\"?\s*[=:]\s*\"?)[^\s\"',;&<>)\]}]+")  # fmt: skip


def address(url: str) -> str:
    """An address without its query and without a password: what may be shown, logged and kept."""
    return USER.sub(r"\1", url).partition("?")[0].partition("#")[0]


def told(error: BaseException) -> str:
    """What obstore says of an error, on one line, without what signs an address."""
    text = USER.sub(r"\1", QUERY.sub("", str(error).partition("\n\n")[0]))
    return one_line(SECRET.sub(r"\1\2...", text))


class ToldStore(ObjectStore[Any]):
    """Objects under a prefix, for Zarr; what goes wrong is one line of `BadInput`.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    read_only : bool
    """

    name = ""  # how messages call it; set by who opens it

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """An object, or a range of it; None when there is none."""
        try:
            return await super().get(key, prototype, byte_range)
        except obstore.exceptions.BaseError as error:
            raise self._refusal(key, error) from None

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Ranges of objects."""
        try:
            return await super().get_partial_values(prototype, key_ranges)
        except obstore.exceptions.BaseError as error:
            raise self._refusal("", error) from None

    async def exists(self, key: str) -> bool:
        """Whether there is an object of that name."""
        try:
            return await super().exists(key)
        except obstore.exceptions.BaseError as error:
            raise self._refusal(key, error) from None

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Names under a prefix."""
        try:
            async for name in super().list_dir(prefix):
                yield name
        except obstore.exceptions.BaseError as error:
            raise self._refusal(prefix, error) from None

    def _refusal(self, key: str, error: BaseException) -> BadInput:
        return BadInput(f"{self.name}/{key}: cannot be read ({told(error)})")
