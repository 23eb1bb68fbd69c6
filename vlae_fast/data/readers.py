"""Readers of the formats in which images come: idx, amat, .npy, .npz. None of them trusts a file."""

import contextlib
import io
import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_fast.data.files import MAX_UNPACKED_BYTES, DataError, Source, check_size, fail, open_file, reading

__all__ = [
    "IDX_MAGIC",
    "NPY_MAGIC",
    "ZIP_MAGIC",
    "parts_of",
    "read_amat",
    "read_idx",
    "read_npy",
    "read_npy_stream",
    "read_npz",
]

IDX_MAGIC = b"\0\0\x08\x03"  # 8 = unsigned bytes, 3 = dimensions
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
_NPY_HEADER_BYTES = 1024  # that of an array of numbers has up to 128
_AMAT_LINES = 4096
_ZIP_ENCRYPTED = 1
_IMAGES = "x|images?|imgs?|data"
_PART = re.compile(
    rf"(?:(?:{_IMAGES})_?)?(?:(?P<train>train(?:ing)?)|(?P<valid>val(?:id(?:ation)?)?)|(?P<test>test(?:ing)?))"
    rf"(?:_?(?:{_IMAGES}))?",
    re.IGNORECASE,
)

Array = NDArray[Any]


def read_idx(source: Source) -> NDArray[np.uint8]:
    """Grey images [n, H, W] of an idx file (MNIST's images), 0..255."""
    magic = source.read(4).tobytes()
    if magic != IDX_MAGIC:
        source.fail(f"starts with {magic.hex()}, not with {IDX_MAGIC.hex()} as an idx file of images does")
    n, height, width = struct.unpack(">3I", source.read(12).data)
    check_size(source.path, n, height, width)
    pixels = source.read(n * height * width)
    source.end()
    return pixels.reshape(n, height, width)


def read_amat(source: Source, height: int, width: int) -> NDArray[np.uint8]:
    """Binary images [n, H, W] of a text file: one line an image, digits 0 or 1 with one space between them."""
    line = np.frombuffer(b"0 " * (height * width - 1) + b"0\n", "<u2")
    images = []
    for block in source.blocks(_AMAT_LINES * line.nbytes):
        lines, rest = divmod(len(block), line.nbytes)
        bits = block[: lines * line.nbytes].view("<u2").reshape(lines, len(line)) ^ line
        if rest or (bits > 1).any():
            source.fail(f"not lines of {len(line)} digits 0 or 1, one space between them")
        images.append(bits.astype(np.uint8).reshape(-1, height, width))
    if not images:
        source.fail("no images in it")
    return np.concatenate(images)


def _npy_header(source: Source) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Type, column-major or not, shape, and length in bytes, of an .npy header; numpy reads it, so no pickle."""
    head = source.read(len(NPY_MAGIC) + 2).tobytes()
    form = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}.get(head[-2:])
    if not head.startswith(NPY_MAGIC) or form is None:
        source.fail("no .npy array")
    (length,) = struct.unpack(form, source.read(struct.calcsize(form)).data)
    if length > _NPY_HEADER_BYTES:
        source.fail(f"a header of {length} bytes: no plain array of numbers")
    text = source.read(length).tobytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, where Python 2 wrote 3L
            # Versions 2 and 3 differ in the encoding of names, which numbers have not.
            header = np.lib.format.read_array_header_2_0(io.BytesIO(struct.pack("<I", length) + text))
    except Exception as error:  # whatever a parser says of text that is no header
        source.fail(f"no .npy header ({str(error)[:80]})")
    shape, fortran, dtype = header
    if dtype.kind not in "biuf" or any(size < 0 for size in shape):
        source.fail(f"array of {dtype} {shape}, an array of plain numbers wanted")
    return dtype, fortran, shape, len(head) + struct.calcsize(form) + length


def read_npy(path: Path) -> Array:
    """The array of an .npy file, of any shape and type of numbers; the file is mapped, not read."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        dtype, fortran, shape, offset = _npy_header(Source(path, file, size))
        if 0 in shape or len(shape) > 4 or offset + dtype.itemsize * math.prod(shape) != size:
            fail(path, f"{size} bytes, not what its header, {dtype} {shape}, says; or empty, or of more than 4 axes")
        return np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")


def read_npy_stream(source: Source) -> Array:
    """The array of an .npy file that is packed."""
    dtype, fortran, shape, _ = _npy_header(source)
    if len(shape) > 4:
        source.fail(f"array of {dtype} {shape}, at most 4 axes wanted")
    array = source.read(dtype.itemsize * math.prod(shape)).view(dtype)
    source.end()
    return array.reshape(shape, order="F" if fortran else "C")


def parts_of(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Which of these names, of arrays or folders, stand for "train", "valid" and "test": x_train, val_images, ..."""
    found: dict[str, str] = {}
    for name in names:
        match = _PART.fullmatch(name)
        if match is not None and found.setdefault(str(match.lastgroup), name) != name:
            fail(path, f"both {found[str(match.lastgroup)]} and {name} in it: one of them wanted")
    return found


def read_npz(path: Path) -> dict[str, Array]:
    """The images of an .npz file: arrays train (and valid, test; or x_train, ...), or the only ones there are."""
    with reading(path), open_file(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = parts_of(path, members)
        if "train" not in chosen:
            chosen = {"train": _only_images(path, archive, members)}
        if sum(members[name].file_size for name in chosen.values()) > MAX_UNPACKED_BYTES:
            fail(path, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes; save it as uint8, or as .npy")
        found = {}
        for part, name in chosen.items():
            with _member(path, archive, members[name]) as source:
                found[part] = read_npy_stream(source)
        return found


def _only_images(path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> str:
    """The only array in it, or the only one that has the shape of images, or else their name."""
    if len(members) == 1:
        return next(iter(members))
    shapes = {}
    for name, info in members.items():
        if info.filename.endswith(".npy"):
            with contextlib.suppress(DataError), _member(path, archive, info) as source:
                shapes[name] = _npy_header(source)[2]
    if not shapes:
        fail(path, "a zip file without arrays of numbers; of a zip of PNGs unpack it and name the folder")
    images = [name for name, shape in shapes.items() if len(shape) > 2]
    images = images or [name for name in shapes if re.fullmatch(_IMAGES, name, re.IGNORECASE)]
    if len(images) != 1:
        arrays = ", ".join(f"{name[:20]} {shape}" for name, shape in list(shapes.items())[:8])
        fail(path, f"arrays {arrays}: the images' names train, valid, test (or x_train, x_test) wanted, or one array")
    return images[0]


@contextlib.contextmanager
def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[Source]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ZIP_ENCRYPTED:
        fail(path, "only plain or deflated members wanted")  # the others' memory is theirs to choose
    with archive.open(info) as stream:
        yield Source(path, stream, info.file_size)
