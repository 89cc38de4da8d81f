"""An HDF5 file that stays open as long as the source in it."""

from collections.abc import Callable
from typing import Any

from data_loaders.errors import BadInput, readable
from data_loaders.hdf5 import open_h5ad
from data_loaders.sources.source import Source


def open_in_hdf5(file: str, open_root: Callable[[Any], Source]) -> Source:
    """The source that `open_root` finds in a file; the file is closed with the source, or at once when
    there is no source.
    """
    with readable(file):
        root = open_h5ad(file)
    try:
        source = open_root(root)
    except BadInput:
        root.close()
        raise
    source.file = root
    return source
