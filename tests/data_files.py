"""Small image files of every format that the readers know, for their tests."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10_020, 3, 5), np.uint8)  # not square: transposed pictures cannot pass
BITS = RNG.integers(0, 2, (30, 28, 28), np.uint8)


def idx(images: np.ndarray, magic: int = 2051) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def amat(images: np.ndarray) -> bytes:
    return b"".join(b" ".join(b"%d" % bit for bit in image.ravel()) + b"\n" for image in images)


def npy(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    np.savez_compressed(file := io.BytesIO(), **arrays)
    return file.getvalue()


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)
    return file.getvalue()


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    Image.fromarray(image).convert(mode).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def mat_like(*elements: bytes, version: bytes = b"\x00\x01IM") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + version + b"".join(elements)


def mat_matrix(
    name: bytes, shape: tuple[int, ...], body: bytes, kind: int = 2, claim: int | None = None, klass: int = 9
) -> bytes:
    """One matrix element; `claim` is the number of bytes that its own tag and that of its numbers promise."""
    claim = len(body) if claim is None else claim
    head = struct.pack(f"<6I{len(shape)}I", 6, 8, klass, 0, 5, 4 * len(shape), *shape)
    head += bytes(-len(head) % 8) + struct.pack("<II", 1, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")
    return struct.pack("<II", 14, len(head) + 8 + claim) + head + struct.pack("<II", kind, claim) + body


def packed(element: bytes) -> bytes:
    """The element compressed, as MATLAB does it since version 7."""
    content = zlib.compress(element)
    return struct.pack("<II", 15, len(content)) + content


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
