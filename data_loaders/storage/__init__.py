"""Paths on disks and addresses in buckets (`s3://`, `gs://`, `az://`, and `http(s)://` to read), by the same verbs."""

from data_loaders.storage.address import as_address, is_remote, shown
from data_loaders.storage.options import carried, carry, use_storage
from data_loaders.storage.place import Place, Versioned, local_copy, place

__all__ = [
    "Place",
    "Versioned",
    "as_address",
    "carried",
    "carry",
    "is_remote",
    "local_copy",
    "place",
    "shown",
    "use_storage",
]
