"""Names that a store can have: every column and every modality is a folder of it."""

RESERVED = (".", "..", "_index", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")  # by the store itself
LONGEST_NAME = 240  # bytes; file systems end at 255


def is_storable(name: str) -> bool:
    """Whether a column of this name can be a folder of a store: no path, and nothing that the format itself uses."""
    n_bytes = len(name.encode("utf-8", "replace"))
    return 0 < n_bytes <= LONGEST_NAME and not set(name) & {"/", "\0"} and name not in RESERVED
