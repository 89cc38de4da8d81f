"""Text files opened by what they are: packed by gzip, bz2, xz or zstd or not, in UTF-8 or UTF-16, whatever the name."""

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from data_loaders.contents import packing
from data_loaders.types import PathLike

MARKS_OF_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_text(path: PathLike) -> TextIO:
    """Open a file as text, without the mark that some editors put first.

    Raises
    ------
    OSError, EOFError, ValueError
        As the unpackers raise them, when the text is read.
    """
    with open_unpacked(path) as file:
        start = file.read(2)
    return io.TextIOWrapper(open_unpacked(path), encoding="utf-16" if start in MARKS_OF_UTF16 else "utf-8-sig")


def open_unpacked(path: PathLike) -> BinaryIO:
    """Open a file as bytes, unpacked."""
    with Path(path).open("rb") as file:
        kind = packing(file.read(8))
    if kind == "gzip":
        return cast("BinaryIO", gzip.open(path))
    if kind == "bz2":
        return cast("BinaryIO", bz2.open(path))
    if kind == "xz":
        return cast("BinaryIO", lzma.open(path))
    if kind == "zstd":
        import pyarrow

        return cast("BinaryIO", pyarrow.input_stream(str(path), compression="zstd"))
    return Path(path).open("rb")
