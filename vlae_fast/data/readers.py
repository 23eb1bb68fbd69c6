"""Readers of the formats in which images come: idx, amat, .npy, .npz, folders of PNGs. All return images [n, H, W]."""

import math
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_fast.data.files import MAX_UNPACKED_BYTES, Source, check_size, fail, open_file, reading
from vlae_fast.extra import cli_extra

__all__ = ["read_amat", "read_idx", "read_npy", "read_npz", "read_png_folder"]

_IDX_IMAGES = 2051  # 0, 0, 8 = unsigned bytes, 3 = dimensions
_AMAT_LINES = 4096
_ZIP_ENCRYPTED = 1
_PNG_HEAD = struct.Struct(">8s4x4sII")
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
# Just what numpy writes for a plain array of numbers: nothing is evaluated, and no object, hence no pickle, gets by.
_NPY_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<>|](?:b1|[iu][1248]|f[248]))', 'fortran_order': (?P<fortran>False|True),"
    r" 'shape': \((?P<shape>\d{1,10}(?:, \d{1,10}){0,7}),?\), \} *\n"
)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Grey images of an idx file (MNIST's images), 0..255."""
    with Source.open(path) as source:
        magic, n, height, width = struct.unpack(">4I", source.read(16).data)
        if magic != _IDX_IMAGES:
            source.fail(f"starts with {magic}, not with {_IDX_IMAGES} as a file of images does")
        check_size(path, n, height, width)
        pixels = source.read(n * height * width)
        source.end()
    return pixels.reshape(n, height, width)


def read_amat(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Binary images of a text file: one line an image, digits 0 or 1 with one space between them."""
    line = np.frombuffer(b"0 " * (height * width - 1) + b"0\n", "<u2")
    images = []
    with Source.open(path) as source:
        for block in source.blocks(_AMAT_LINES * line.nbytes):
            lines, rest = divmod(len(block), line.nbytes)
            bits = block[: lines * line.nbytes].view("<u2").reshape(lines, len(line)) ^ line
            if rest or (bits > 1).any():
                source.fail(f"not lines of {len(line)} digits 0 or 1, one space between them")
            images.append(bits.astype(np.uint8).reshape(-1, height, width))
    if not images:
        fail(path, "no images in it")
    return np.concatenate(images)


def _npy_header(source: Source) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """Type, column-major or not, shape, and length in bytes, of an .npy header."""
    head = source.read(len(NPY_MAGIC) + 2).tobytes()
    form = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}.get(head[-2:])
    if not head.startswith(NPY_MAGIC) or form is None:
        source.fail("no .npy array")
    (length,) = struct.unpack(form, source.read(struct.calcsize(form)).data)
    match = _NPY_HEADER.fullmatch(source.read(length).tobytes().decode("latin-1"))
    if match is None:
        source.fail("no plain array of numbers")
    shape = tuple(int(size) for size in match["shape"].split(", "))
    return np.dtype(match["dtype"]), match["fortran"] == "True", shape, len(head) + struct.calcsize(form) + length


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file, of any shape and type of numbers; the file is mapped, not read."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        dtype, fortran, shape, offset = _npy_header(Source(path, file, size))
        if 0 in shape or offset + dtype.itemsize * math.prod(shape) != size:
            fail(path, f"{size} bytes, not what its header, {dtype} {shape}, says; or empty")
        return np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file that are named train, valid and test, or its only array."""
    with reading(path), open_file(path) as file, zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = {"train", "valid", "test"} & members.keys() or members.keys()
        if len(wanted) not in (1, 3) or (len(wanted) == 1 and len(members) > 1):
            fail(path, "arrays train, valid and test wanted, or a single one")
        if sum(members[name].file_size for name in wanted) > MAX_UNPACKED_BYTES:
            fail(path, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes; save it as uint8, or as .npy")
        return {name: _read_member(path, archive, members[name]) for name in wanted}


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _ZIP_ENCRYPTED:
        fail(path, "only plain or deflated members wanted")  # the others' memory is theirs to choose
    with archive.open(info) as stream:
        source = Source(path, stream, info.file_size)
        dtype, fortran, shape, _ = _npy_header(source)
        array = source.read(dtype.itemsize * math.prod(shape)).view(dtype)
        source.end()
    return array.reshape(shape, order="F" if fortran else "C")


def read_png_folder(path: Path) -> NDArray[np.uint8]:
    """Grey values 0..255 of the PNGs of a folder, sorted by name; colours count by their luma."""
    with reading(path):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
    if not files:
        fail(path, "no .png files in this folder")
    height, width = _png_size(files[0])
    if len(files) * height * width > MAX_UNPACKED_BYTES:
        fail(path, f"{len(files)} images of {height} x {width} pixels, at most {MAX_UNPACKED_BYTES} pixels wanted")
    images = np.empty((len(files), height, width), np.uint8)
    for image, file in zip(images, files, strict=True):
        if _png_size(file) != (height, width):
            fail(file, f"size differs from the {height} x {width} pixels of the first image")
        image[:] = _read_png(file, height, width)
    return images


def _png_size(path: Path) -> tuple[int, int]:
    """Height and width, checked before Pillow sees the file."""
    with open_file(path) as file:
        head = file.read(_PNG_HEAD.size)
    if len(head) < _PNG_HEAD.size:
        fail(path, "cut short")
    magic, chunk, width, height = _PNG_HEAD.unpack(head)
    if (magic, chunk) != (b"\x89PNG\r\n\x1a\n", b"IHDR"):
        fail(path, "no PNG")
    check_size(path, 1, height, width)
    return height, width


def _read_png(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    with cli_extra():
        from PIL import Image
    with open_file(path) as file:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                mode, size = image.mode, image.size
                grey = np.asarray(image.convert("L")) if size == (width, height) else None
        except Exception as error:  # Pillow raises whatever its decoders meet
            fail(path, f"damaged PNG ({error})")
    if mode not in ("1", "L", "P", "RGB") or grey is None:
        fail(path, f"PNG of mode {mode} and size {size}; grey or colour without alpha, 8 bits, wanted")
    return grey
