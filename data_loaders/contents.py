"""What a file is by its first bytes, whatever it is called: for files that are none of what was expected."""

from pathlib import Path

from data_loaders.types import PathLike

START = 512  # bytes looked at
HDF5 = b"\x89HDF\r\n\x1a\n"
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
KINDS = {  # first bytes → what such a file is, and the way on
    b"PK\x03\x04": "an Excel workbook or a zip archive: save it as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Excel workbook: save it as CSV",
    b"PAR1": "a Parquet file: its name must end in .parquet",
    b"ARROW1": "an Arrow or Feather file",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: download that (git lfs pull)",
    b"%%MatrixMarket": "a Matrix Market file: its name must end in .mtx",
    b"RDX": "a file of R: write an h5ad file of it there",
    b"RDA": "a file of R: write an h5ad file of it there",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"%PDF": "a PDF document",
}
ENDINGS = {  # of names → the same, for files that are packed or whose bytes say little
    (
        ".rds",
        ".rda",
        ".rdata",
        ".robj",
        ".qs",
    ): "a file of R: write an h5ad file of it there (zellkonverter::writeH5AD)",
    (".h5seurat",): "a Seurat file: write an h5ad file of it (in R, SeuratDisk::Convert)",
}
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def kind_of(path: PathLike) -> str | None:
    """What a file is by its first bytes or a telling name, for a message, with the way on; None where they do not tell.

    HDF5 is not told of: whoever expects it sees more of it by opening it.
    """
    named = next((kind for endings, kind in ENDINGS.items() if str(path).lower().endswith(endings)), None)
    if named is not None:
        return named
    with Path(path).open("rb") as file:
        start = file.read(START)
    if not start:
        return "an empty file: the download or copy was not finished"
    if packing(start):
        return f"packed by {packing(start)}: unpack it"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(PAGES):
        return "a web page, perhaps the error that a download met: download the file again"
    if (text.startswith(b"{") and b'"message"' in text) or text.startswith(b'{"error'):
        return "a message of a server in place of the file: download the file again"
    return next((kind for mark, kind in KINDS.items() if start.startswith(mark)), None)


def packing(start: bytes) -> str | None:
    """How a file is packed that starts so: gzip, bz2, xz or zstd; None if it is not."""
    return next((name for mark, name in PACKED.items() if start.startswith(mark)), None)
