"""Small files that others wrote, cards, plans, notes and records, read by one function into checked values.

A file is trusted with nothing: it must be a regular file of a sane size, UTF-8, JSON without surprises (no key twice,
no NaN, no nesting without end), and of the form that a pydantic model says. Whatever is not so is one line of
`BadInput`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_loaders.errors import BadInput
from data_loaders.storage import is_remote, place, shown

if TYPE_CHECKING:
    from data_loaders.types import PathLike

MOST_BYTES = 1 << 28  # of a record; one of 100,000 genes has 3 MB
MOST_DEPTH = 64  # lists and dicts within each other
LARGEST_NUMBER = 1 << 64  # whole numbers
SURROGATE = re.compile("[\ud800-\udfff\0]")  # half a character, which cannot be written anywhere, and the end of paths

Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Record(BaseModel):
    """A kind of record: known keys have their types, and keys of newer versions are left alone."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def read_regular(path: PathLike, name: str, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file, or of an object in a bucket.

    Parameters
    ----------
    path : path-like
        Or an address.
    name : str
        How messages call it.
    most : int
        Bytes at most.

    Raises
    ------
    FileNotFoundError
    BadInput
        A folder, a pipe, a socket or a device, which are not waited for; more bytes than that; no permission.
    """
    if is_remote(path):
        there = place(path)
        if there.size() > most:
            raise BadInput(f"{name} has more than {most:,} bytes; expected a small file")
        return there.read()
    try:
        # a pipe without a writer must not be waited for; where there is no such flag there are no such pipes
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(os.fspath(path)) from None
    except (OSError, ValueError) as error:
        found = "a folder" if Path(path).is_dir() else getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{name} cannot be read: {found}; expected a regular file") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(mode), "a device")
        raise BadInput(f"{name} cannot be read: {found}; expected a regular file")
    with open(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BadInput(f"{name} has more than {most:,} bytes; expected a small file")
    return content


def read_json(
    path: PathLike,
    model: type[BaseModel],
    name: str | None = None,
    most: int = MOST_BYTES,
    any_number: bool = False,
) -> Any:
    """The values in a JSON file, as they are there, if they have the form of `model`.

    Parameters
    ----------
    path : path-like
        Or an address.
    model : type of pydantic.BaseModel
    name : str, optional
        How messages call the file; its path by default.
    most : int
        Bytes at most.
    any_number : bool
        Take NaN and infinity as well.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        There is no such file: what that means is the caller's to say.
    BadInput
        It is none that can be read, no such JSON, or of another form.
    """
    name = shown(path) if name is None else name
    return parse_json(read_regular(path, name, most), model, name, any_number)


def parse_json(text: bytes | str, model: type[BaseModel], name: str, any_number: bool = False) -> Any:
    """As `read_json`, of a text that was read already."""
    values = plain_json(text, name, any_number)
    check_form(values, model, name)
    return values


def plain_json(text: bytes | str, name: str, any_number: bool = False) -> Any:
    """JSON of any form, without surprises; BadInput otherwise. `any_number` takes what is not finite as well."""
    try:
        words = text.decode("utf-8") if isinstance(text, bytes) else text
        values = json.loads(
            words,
            object_pairs_hook=_once,
            parse_constant=float if any_number else _no_number,
            parse_float=float if any_number else _finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not UTF-8 text; expected JSON") from None
    except RecursionError:
        raise BadInput(f"{name} is not valid JSON: nested too deep, expected {MOST_DEPTH} levels at most") from None
    except ValueError as error:
        raise BadInput(f"{name} is not valid JSON: {one_line(error)}") from None
    check_tree(values, name)
    return values


def check_tree(values: Any, name: str, most: int | None = None) -> None:
    """Refuse trees that are nested too deep or have more than `most` values, and what cannot be written as text."""
    level, depth, n = [values], 0, 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise BadInput(f"{name}: nested too deep, expected {MOST_DEPTH} levels at most")
        below: list[Any] = []
        for value in level:
            several = isinstance(value, list | tuple | set)
            inside = value if several else [*value, *value.values()] if isinstance(value, dict) else ()
            n += len(inside)
            if most is not None and n > most:
                raise BadInput(f"{name}: more than {most:,} values in it")
            if isinstance(value, str) and SURROGATE.search(value):
                raise BadInput(f"{name}: {show(value)} is no text: half a character, or a null")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise BadInput(f"{name}: {hex(value)[:40]}... is too large a number")
            below.extend(inside)
        level = below


def check_form(values: Any, model: type[BaseModel], name: str) -> None:
    """Refuse values that are not of the form of `model`, by the first thing that is wrong."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{name}: {fault(error)}") from None


def fault(error: ValidationError) -> str:
    """The first of the mistakes that pydantic found: the key, what was found, what was expected."""
    mistake = error.errors(include_url=False)[0]
    key = ".".join(show(part, quoted=False) for part in mistake["loc"])
    said = one_line(mistake["msg"].removeprefix("Value error, "))
    if mistake["type"] == "missing":
        return f"{key} is missing"
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if mistake["type"] == "value_error":
        return f"{key}: {said}" if key else said
    expected = said.removeprefix("Input should be ").removeprefix("Value should be ")
    expected = expected.replace("a valid ", "").replace("dictionary", "keys and values")
    return f"{key or 'it'} is {show(mistake['input'])}, expected {expected}"


def show(value: Any, quoted: bool = True) -> str:
    """A value of anybody as a few words on one line."""
    if isinstance(value, dict | list):
        return f"{'keys and values' if isinstance(value, dict) else 'a list'} ({len(value):,})"
    text = repr(value) if quoted or not isinstance(value, str | int) else str(value)
    text = one_line(text).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(words: object) -> str:
    """Words on one line, 200 characters at most."""
    return " ".join(str(words).replace("\0", " ").split())[:200]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {show(twice)} stands there twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) > LARGEST_NUMBER:
        raise ValueError(f"{text[:40]} is too large a number")
    return number
