"""Zarr arrays (v2 and v3, sharded or not) read chunk by chunk, decoded outside the interpreter lock.

Zarr hands out the fill value for a chunk that is not there. Here a missing chunk is an error: in an array of counts it
would be silent zeros. So is a chunk that does not decode, has a wrong checksum, or another length than it should.
"""

import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import google_crc32c
import numcodecs
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from data_loaders.errors import BadInput
from data_loaders.manifest import TAIL
from data_loaders.reading.byte_ranges import ByteSource
from data_loaders.types import Array, Ints

BLOSC_HEADER = 16  # bytes
CRC_WITH_ITSELF = 0x48674BC7  # the CRC-32C of any bytes followed by their CRC-32C
ABSENT = 2**64 - 1  # offset of a chunk that was never written, in the index of a shard
VIRTUAL_CHUNK_BYTES = 1 << 19  # of arrays that are read by slices
DiskArray: TypeAlias = Any  # zarr.Array or h5py.Dataset, which are used alike
_buffer = threading.local()


class Layout(NamedTuple):
    """How the bytes of a Zarr array become numbers."""

    shard_len: int | None  # rows of a shard; None: each chunk is a file
    chunk_len: int
    compressor: Any  # of numcodecs, or None
    has_checksum: bool


def open_chunks(array: DiskArray, source: ByteSource | None, name: str) -> "Chunks":
    """The chunks of an array along its first axis.

    Parameters
    ----------
    array : zarr.Array or h5py.Dataset
        One- or two-dimensional.
    source : byte source or None
        Where the files of the Zarr store are; None for HDF5.
    name : str
        Store and array, for messages.

    Returns
    -------
    ZarrChunks or SlicedArray
        With `chunk_len`, `n`, `dtype`, `read(first, stop)`.
    """
    if source is not None and isinstance(array, zarr.Array):
        layout = _layout(array)
        if layout is not None:
            return ZarrChunks(array, source, name, layout)
    return SlicedArray(array, name)


class ZarrChunks:
    """Chunks of a Zarr array whose codecs are bytes, then any compressor of numcodecs, then perhaps a CRC-32C."""

    def __init__(self, array: zarr.Array[Any], source: ByteSource, name: str, layout: Layout) -> None:
        shard_len, chunk_len, self._compressor, self._has_checksum = layout
        self.name, self.dtype, self.n = name, np.dtype(array.dtype), array.shape[0]
        self.source, self.chunk_len = source, chunk_len
        self._tail = tuple(array.shape[1:])
        self._chunk_bytes = chunk_len * int(np.prod(self._tail)) * self.dtype.itemsize
        self._chunks_per_shard = 0 if shard_len is None else shard_len // chunk_len  # 0: each chunk is a file
        self._metadata: Any = array.metadata  # of format 2 or 3
        self._path = array.path
        self._fill_value = array.fill_value
        # whether the values of a range may all be zero
        self.zeros_expected: Callable[[int, int], bool] = lambda start, stop: False
        self._indexes: dict[int, Ints] = {}  # shard -> (chunks, 2) offset and length
        self._reading: dict[int, threading.Lock] = {}  # shard -> lock of who reads its index
        self._lock = threading.Lock()

    def run_limit(self, first: int) -> int:
        """End of the chunks that one request can read, starting at chunk `first`."""
        if self._chunks_per_shard == 0:
            return first + 1
        return (first // self._chunks_per_shard + 1) * self._chunks_per_shard

    def read(self, first: int, stop: int) -> Array:
        """Values of the chunks [first, stop), all in one shard: array, valid until this thread reads again.

        Raises
        ------
        BadInput
            When a chunk is missing, cut short or damaged.
        """
        n = min(stop * self.chunk_len, self.n) - first * self.chunk_len
        target = _scratch((stop - first) * self._chunk_bytes)
        for i, encoded in enumerate(self._encoded(first, stop)):
            out = target[i * self._chunk_bytes : (i + 1) * self._chunk_bytes]
            if encoded is None:
                out[:] = 0
            else:
                self._decode(encoded, out, first + i)
        return target.view(self.dtype).reshape(-1, *self._tail)[:n]

    def expect(self, first: int, stop: int) -> None:
        """Announce that the chunks [first, stop), all in one shard, will be read."""
        if self.source.fetches_ahead:
            self.fetch(first, stop)

    def fetch(self, first: int, stop: int) -> None:
        """Have the bytes of the chunks [first, stop), all in one shard, be fetched; they are read later."""
        if self._chunks_per_shard == 0:
            return
        shard, inner = divmod(first, self._chunks_per_shard)
        try:
            spans = self._index(shard)[inner : inner + stop - first]
        except FileNotFoundError:  # an error only if it does not stand for zeros, as the reading will tell
            return
        spans = spans[spans[:, 0] != ABSENT]
        if len(spans):
            self.source.expect(self._key(shard), int(spans[:, 0].min()), int(spans.sum(1).max()))

    def missing(self) -> list[int]:
        """Numbers of the chunks that are not there, a list."""
        return [chunk for chunk in range(-(-self.n // self.chunk_len)) if not self._exists(chunk)]

    def _exists(self, chunk: int) -> bool:
        try:
            if self._chunks_per_shard == 0:
                return self.source.size(self._key(chunk)) > 0
            shard, inner = divmod(chunk, self._chunks_per_shard)
            return int(self._index(shard)[inner, 0]) != ABSENT
        except FileNotFoundError:
            return False

    def _encoded(self, first: int, stop: int) -> Iterator[bytes | memoryview | None]:
        """Encoded bytes of each chunk, by one request if they lie together; None for a chunk that means zeros."""
        if self._chunks_per_shard == 0:
            for chunk in range(first, stop):
                key = self._key(chunk)
                try:
                    content = self.source.read(key, 0, self.source.size(key))
                except FileNotFoundError:
                    yield self._zeros(chunk)
                    continue
                if self.source.manifest is not None:
                    self.source.manifest.check_whole(key, content)
                yield content
            return
        shard, inner = divmod(first, self._chunks_per_shard)
        try:
            index = self._index(shard)
        except FileNotFoundError:
            yield from (self._zeros(chunk) for chunk in range(first, stop))
            return
        spans = index[inner : inner + stop - first]
        if (spans[:, 0] == ABSENT).any():
            for chunk, (offset, length) in zip(range(first, stop), spans.tolist(), strict=True):
                absent = offset == ABSENT
                yield self._zeros(chunk) if absent else self.source.read(self._key(shard), offset, offset + length)
            return
        low, high = int(spans[:, 0].min()), int(spans.sum(1).max())
        if high - low <= 2 * int(spans[:, 1].sum()):  # chunks of a shard may lie in any order
            together = memoryview(self.source.read(self._key(shard), low, high))
            for offset, length in spans.tolist():
                yield together[offset - low : offset - low + length]
        else:
            for offset, length in spans.tolist():
                yield self.source.read(self._key(shard), offset, offset + length)

    def _decode(self, encoded: bytes | memoryview, out: Array, chunk: int) -> None:
        """Decode one chunk into `out`, uint8."""
        if self._has_checksum:
            if google_crc32c.value(bytes(encoded)) != CRC_WITH_ITSELF:
                raise self._error(chunk, "has a wrong checksum")
            encoded = memoryview(encoded)[:-4]
        try:
            if isinstance(self._compressor, numcodecs.Blosc):
                size = _decode_blosc(encoded, out)
            else:
                decoded = encoded if self._compressor is None else self._compressor.decode(encoded)
                size = len(decoded)
                if size == len(out):
                    out[:] = np.frombuffer(decoded, np.uint8)
        except Exception as error:  # every codec has its own
            raise self._error(chunk, f"does not decode ({error})") from error
        if size != len(out):
            raise self._error(chunk, f"holds {size} bytes, expected {len(out)}")

    def _key(self, number: int) -> str:
        """Key of a file, a shard or an unsharded chunk."""
        coordinates = (number,) + (0,) * len(self._tail)
        return "/".join(part for part in (self._path, self._metadata.encode_chunk_key(coordinates)) if part)

    def _index(self, shard: int) -> Ints:
        """Offset and length of each chunk of a shard, uint64 (chunks, 2); read once."""
        index = self._indexes.get(shard)
        if index is not None:
            return index
        with self._lock:
            alone = self._reading.setdefault(shard, threading.Lock())
        with alone:  # several threads want it at once, and one asks for it
            index = self._indexes.get(shard)
            if index is not None:
                return index
            key, length = self._key(shard), 16 * self._chunks_per_shard + 4
            size = self.source.size(key)
            raw = self.source.read(key, max(size - max(length, TAIL), 0), size)
            tail, raw = raw[-TAIL:], raw[-length:]
            if len(raw) < length or google_crc32c.value(raw) != CRC_WITH_ITSELF:
                raise BadInput(
                    f"{self.name}: the index of the file {key} is damaged; the file is cut short or overwritten"
                )
            index = np.frombuffer(raw[:-4], "<u8").reshape(-1, 2)
            inside = index[:, 0] != ABSENT
            if (index[inside].sum(1) > size).any():
                raise BadInput(f"{self.name}: chunks in the file {key} end beyond its {size} bytes; it is cut short")
            if self.source.manifest is not None:
                self.source.manifest.check_size(key, size)
                self.source.manifest.check_tail(key, tail)
            self._indexes[shard] = index
        return index

    def _zeros(self, chunk: int) -> bytes | None:
        """None for a chunk that was not written and stands for zeros; an error if it does not."""
        start = chunk * self.chunk_len
        if self._fill_value == 0 and self.zeros_expected(start, min(start + self.chunk_len, self.n)):
            return None
        raise self._error(chunk, "is missing")

    def _error(self, chunk: int, what: str) -> BadInput:
        return BadInput(f"{self.name}: chunk {chunk} {what}; the store is damaged or still being written")


class SlicedArray:
    """Any array that gives slices along its first axis, one thread at a time: HDF5, and Zarr with unusual codecs.

    Values come in a type that kernels and tensors know, whatever type they are stored in.
    """

    def __init__(self, array: DiskArray, name: str) -> None:
        self.name, self.dtype, self.n = name, _usable(array.dtype), array.shape[0]
        self._array = array
        row_bytes = int(np.prod(array.shape[1:])) * self.dtype.itemsize
        self.chunk_len = max(1, VIRTUAL_CHUNK_BYTES // max(row_bytes, 1))
        self._lock = threading.Lock()

    def run_limit(self, first: int) -> int:
        """As in ZarrChunks: no limit."""
        return first + (1 << 30)

    def expect(self, first: int, stop: int) -> None:
        """As in ZarrChunks: nothing can be fetched ahead."""

    def fetch(self, first: int, stop: int) -> None:
        """As in ZarrChunks: nothing can be fetched ahead."""

    def read(self, first: int, stop: int) -> Array:
        """Values of the virtual chunks [first, stop)."""
        try:
            with self._lock:
                values = np.asarray(self._array[first * self.chunk_len : min(stop * self.chunk_len, self.n)])
            usable: Array = values.astype(self.dtype, copy=False)
            return usable
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise BadInput(f"{self.name}: chunk {first} cannot be read ({error}); the file is damaged") from error


def _scratch(size: int) -> Array:
    """`size` bytes of this thread's buffer. Taking fresh memory for every run costs as much as decoding it."""
    if len(getattr(_buffer, "bytes", ())) < size:
        _buffer.bytes = np.empty(size, np.uint8)
    scratch: Array = _buffer.bytes[:size]
    return scratch


Chunks = ZarrChunks | SlicedArray


def _decode_blosc(encoded: bytes | memoryview, out: Array) -> int:
    """Decode into `out` if the size is right, and return the size. Blosc itself would read on beyond a cut end."""
    if len(encoded) < BLOSC_HEADER:
        raise ValueError(f"cut short after {len(encoded)} bytes")
    size: int
    size, _, encoded_size = struct.unpack_from("<III", encoded, 4)
    if encoded_size != len(encoded):
        raise ValueError(f"cut short: {len(encoded)} of {encoded_size} bytes")
    if size == len(out):
        numcodecs.blosc.decompress(encoded, out)
    return size


def _layout(array: zarr.Array[Any]) -> Layout | None:
    """The layout of an array; None where this reader cannot read it."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        if metadata.filters or metadata.order != "C" or array.chunks[1:] != array.shape[1:]:
            return None
        return Layout(None, array.chunks[0], metadata.compressor, False) if _is_native(array.dtype) else None
    shard_len, codecs, chunk_shape = None, metadata.codecs, metadata.chunk_grid.chunk_shape
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        sharding = codecs[0]
        kinds = [type(codec) for codec in sharding.index_codecs]
        if kinds != [BytesCodec, Crc32cCodec] or sharding.index_location.value != "end":
            return None
        shard_len, codecs = chunk_shape[0], sharding.codecs
        if chunk_shape[1:] != sharding.chunk_shape[1:]:
            return None
        chunk_shape = sharding.chunk_shape
    if chunk_shape[1:] != array.shape[1:] or not codecs or not isinstance(codecs[0], BytesCodec):
        return None
    if not _is_native(array.dtype) or getattr(codecs[0].endian, "value", "little") != "little":
        return None
    codecs = list(codecs[1:])
    has_checksum = bool(codecs) and isinstance(codecs[-1], Crc32cCodec)
    if has_checksum:
        codecs.pop()
    if len(codecs) > 1:
        return None
    compressor = None
    if codecs:
        compressor = _compressor(codecs[0].to_dict())
        if compressor is None:
            return None
    return Layout(shard_len, chunk_shape[0], compressor, has_checksum)


def _compressor(codec: dict[str, Any]) -> Any:
    """The numcodecs decoder of a Zarr v3 codec, or None."""
    decoders = {"blosc": numcodecs.Blosc, "zstd": numcodecs.Zstd, "gzip": numcodecs.GZip}
    kind = decoders.get(codec["name"])
    return None if kind is None else kind()


def _usable(dtype: Any) -> np.dtype[Any]:
    """The type that values are read in: this machine's byte order, no half or extended precision, no booleans."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize == 2 else np.float64)
    native: np.dtype[Any] = dtype.newbyteorder("=")
    return native


def _is_native(dtype: Any) -> bool:
    """Whether values are stored in the type that they are read in."""
    return dtype.kind in "iuf" and _usable(dtype) == dtype
