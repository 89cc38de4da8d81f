"""Shards of one-dimensional arrays, encoded by threads, to the byte as Zarr would write them, at a third less cost.

A shard is its chunks one behind the other, an index with offset and length of each, and a CRC-32C of the index. A chunk
is packed by Blosc and followed by its own CRC-32C. The last chunk is filled up with the fill value.
"""

import struct
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from data_loaders.parallel import ordered_map
from data_loaders.types import Array

BLOSC: dict[str, Any] = {"cname": "lz4hc", "clevel": 5, "shuffle": Blosc.SHUFFLE}
NONE = 2**64 - 1  # in the index, for a chunk that is not there


def write_shards(array: zarr.Array[Any], first: int, values: Array) -> None:
    """Write shards of an array that holds numbers.

    Parameters
    ----------
    array : zarr.Array
        Of one dimension; its codecs are Blosc as in `BLOSC`, and CRC-32C.
    first : int
        Number of the first shard.
    values : array (n,)
        Begin where that shard begins, and end where a shard or the array ends.
    """
    assert array.shards is not None
    (size,), (step,) = array.shards, array.chunks
    codec = Blosc(**BLOSC)

    def packed(start: int) -> bytes:
        chunk = values[start : start + step]
        if len(chunk) < step:
            chunk = np.concatenate([chunk, np.full(step - len(chunk), array.fill_value, values.dtype)])
        content: bytes = codec.encode(np.ascontiguousarray(chunk, values.dtype.newbyteorder("<")))
        return content + struct.pack("<I", google_crc32c.value(content))

    for number, begin in enumerate(range(0, len(values), size), start=first):
        chunks = list(ordered_map(packed, range(begin, min(begin + size, len(values)), step)))
        index = np.full((size // step, 2), NONE, "<u8")
        lengths = np.array([len(chunk) for chunk in chunks], "<u8")
        index[: len(chunks), 0] = np.append(0, np.cumsum(lengths)[:-1])
        index[: len(chunks), 1] = lengths
        end = index.tobytes()
        content = b"".join([*chunks, end, struct.pack("<I", google_crc32c.value(end))])
        key = f"{array.path}/c/{number}"
        sync(array.store.set(key, default_buffer_prototype().buffer.from_bytes(content)))
