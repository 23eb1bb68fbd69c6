"""A strict reader of the numeric matrices in little-endian MATLAB 5 files (MathWorks, "MAT-File Format", chapter 1)."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlae_fast.data.files import DEFLATE_RATIO, MAX_UNPACKED_BYTES, fail, reading

__all__ = ["read_mat"]

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_NUMERIC_CLASSES = range(6, 16)  # double, single, int8..uint64; the others are cells, structures, text, sparse
_COMPLEX = 0x0800
_HEAD_BYTES = 256  # hold a matrix's tag, flags, dimensions and name: 40 bytes and a name of up to 63


class _Head(NamedTuple):
    """What stands before a matrix's numbers."""

    name: str
    shape: tuple[int, ...]
    numeric: bool
    numbers: int
    """Where the numbers start."""
    size: int
    """Bytes of the whole element."""


def read_mat(path: Path, data: memoryview, names: set[str]) -> dict[str, NDArray[Any]]:
    """The matrices [rows, columns] of these names in the bytes of a MATLAB 5 file; all others are passed over.

    Raises DataError, naming `path`, also where a matrix is missing, there twice, or not of real numbers.
    """
    if bytes(data[:10]) == b"MATLAB 7.3" or bytes(data[:4]) == b"\x89HDF":
        fail(path, "a MATLAB 7.3 (HDF5) file, MATLAB 5 wanted: load it in MATLAB and save it with '-v7'")
    if len(data) < 128 or bytes(data[124:128]) != b"\x00\x01IM":
        fail(path, "no little-endian MATLAB 5 file")
    matrices: dict[str, NDArray[Any]] = {}
    budget = MAX_UNPACKED_BYTES
    rest = data[128:]
    while rest:
        kind, body, after = _element(path, rest)
        packed = kind == _COMPRESSED
        head = _head(path, _inflate_head(path, body) if packed else rest[:_HEAD_BYTES])
        if head.name in names:
            budget -= head.size
            if budget < 0 or head.size > DEFLATE_RATIO * len(body):
                fail(path, f"{head.name} says that it unpacks to {head.size} bytes, too large")
            if head.name in matrices:
                fail(path, f"two matrices {head.name}")
            whole = _inflate(path, body, head.size) if packed else rest[: head.size]
            matrices[head.name] = _matrix(path, head, whole)
        rest = rest[len(body) + 8 :] if packed else after
    if missing := names - matrices.keys():
        fail(path, f"no matrix {', '.join(sorted(missing))} in it")
    return matrices


def _element(path: Path, data: memoryview) -> tuple[int, memoryview, memoryview]:
    """The kind and the content of the first data element, and what follows it and its padding to 8 bytes."""
    if len(data) < 8:
        fail(path, "cut short")
    kind, size = struct.unpack("<II", data[:8])
    if kind >> 16:  # the short form: up to four bytes, in the tag itself
        kind, size, start, end = kind & 0xFFFF, kind >> 16, 4, 8
    else:
        start, end = 8, 8 + size + -size % 8
    content = data[start : min(start + size, end)]
    if len(content) != size:
        fail(path, "cut short")
    return kind, content, data[end:]


def _inflate_head(path: Path, packed: memoryview) -> memoryview:
    with reading(path):
        return memoryview(zlib.decompressobj().decompress(packed, _HEAD_BYTES))


def _inflate(path: Path, packed: memoryview, size: int) -> memoryview:
    """The `size` bytes that zlib data unpack to, their checksum checked."""
    unpacker = zlib.decompressobj()
    with reading(path):
        data = unpacker.decompress(packed, size + 1)  # one more, to see the end
    if len(data) != size or not unpacker.eof:
        fail(path, f"unpacks to something other than the {size} bytes it says")
    return memoryview(data)


def _head(path: Path, data: memoryview) -> _Head:
    if len(data) < 8:
        fail(path, "cut short")
    kind, size = struct.unpack("<II", data[:8])
    _, flags, rest = _element(path, data[8:])
    _, dimensions, rest = _element(path, rest)
    _, name, rest = _element(path, rest)
    if kind != _MATRIX or len(flags) != 8 or len(dimensions) % 4:
        fail(path, "something other than matrices in it")
    (word,) = struct.unpack("<I", flags[:4])
    return _Head(
        name.tobytes().decode("latin-1"),
        struct.unpack(f"<{len(dimensions) // 4}I", dimensions),
        word & 0xFF in _NUMERIC_CLASSES and not word & _COMPLEX,
        len(data) - len(rest),
        size + 8,
    )


def _matrix(path: Path, head: _Head, whole: memoryview) -> NDArray[Any]:
    kind, numbers, after = _element(path, whole[head.numbers :])
    stored = np.dtype(_STORED.get(kind, "V1"))
    plain = head.numeric and len(head.shape) == 2 and stored.kind != "V" and not after
    if not plain or len(numbers) != stored.itemsize * math.prod(head.shape):
        fail(path, f"{head.name} is no matrix of real numbers of the size it says")
    return np.frombuffer(numbers, stored).reshape(head.shape, order="F")
