"""Where files are looked for, and how they are read without trusting them."""

import gzip
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from numpy.typing import NDArray

from vlae_fast import checks

__all__ = ["MAX_PIXELS", "MAX_SIDE", "MAX_UNPACKED_BYTES", "DataError", "MissingDataError", "Source"]

MAX_SIDE = 4096
"""Largest height and width of an image."""
MAX_PIXELS = 2**31
"""Most pixels of one file."""
MAX_UNPACKED_BYTES = 2**28
"""Most bytes that one file (or folder of PNGs) may unpack to: the packed bytes, the unpacked ones and the images made
of them together stay under 1 GiB. An .npy file is mapped, not read, and may be larger."""
DEFLATE_RATIO = 1032
"""Deflate (gzip, zlib, zip, PNG) packs at most 258 bytes into two bits: a header that promises more lies."""

FOLDERS = ("", "mnist", "static_mnist", "caltech101_silhouettes", "omniglot", "omniglot_drawings")
_GZIP_MAGIC = b"\x1f\x8b"


class DataError(ValueError):
    """A file of images is not what it should be; the message is one line that names the file."""


class MissingDataError(DataError, FileNotFoundError):
    """A file of images is not there; the message says what is wanted and where it was looked for."""


def fail(path: Path, reason: object) -> NoReturn:
    """Raises a DataError that names the file; repr keeps a strange file name on the one line."""
    raise DataError(f"{str(path)!r}: {' '.join(str(reason).split())}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system or an unpacker says against a file into a DataError."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        fail(path, error.strerror or error)
    except (EOFError, NotImplementedError, UnicodeDecodeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        fail(path, f"damaged or cut short ({error})")


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading: a pipe or a device would block, or never end."""
    with reading(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            fail(path, "a file wanted, not a folder, pipe or device")
        with open(path, "rb") as file:
            yield file


class Source:
    """Bytes read front to back, never more than asked for; all that goes wrong is a DataError.

    `path` names the file in errors; `limit` is how many bytes can come at all. All that is read is hashed by
    `algorithm`, where one is given.
    """

    def __init__(self, path: Path, stream: IO[bytes], limit: int, algorithm: str = "") -> None:
        self.path = path
        self.hashed = hashlib.new(algorithm, usedforsecurity=False) if algorithm else None
        """Of the bytes read so far."""
        self._stream = stream
        self._left = min(limit, MAX_UNPACKED_BYTES)

    @classmethod
    @contextmanager
    def open(cls, path: Path, algorithm: str = "") -> "Iterator[Source]":
        """The bytes of a file; of the unpacked file where it is gzip, whatever its name."""
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield cls(path, stream, DEFLATE_RATIO * size, algorithm)  # type: ignore[arg-type]
            else:
                yield cls(path, file, size, algorithm)

    def fail(self, reason: str) -> NoReturn:
        """Raises a DataError that names the file."""
        fail(self.path, reason)

    def take(self, size: int) -> NDArray[np.uint8]:
        """The next bytes, up to `size` of them: fewer only at the end. Memory is touched only as the bytes come."""
        out = np.empty(size, np.uint8)
        filled = 0
        with reading(self.path):
            while filled < size and (got := self._stream.readinto(out.data[filled : filled + 2**20])):  # type: ignore[attr-defined]
                filled += got
        self._left -= filled
        if self.hashed is not None:
            self.hashed.update(out[:filled].data)
        return out[:filled]

    def read(self, size: int) -> NDArray[np.uint8]:
        """The next `size` bytes."""
        if size > self._left:
            self.fail(f"cut short, or too large: {size} more bytes wanted, at most {self._left} can be there")
        out = self.take(size)
        if len(out) < size:
            self.fail(f"cut short: {size} more bytes wanted, {len(out)} there")
        return out

    def blocks(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """All that is left, `size` bytes at a time; the last block may be shorter."""
        while len(block := self.take(min(size, self._left + 1))):
            if self._left < 0:
                self.fail(f"unpacks to more than the {MAX_UNPACKED_BYTES} bytes allowed")
            yield block

    def end(self) -> None:
        """Checks that nothing is left; of a packed file this also checks its checksum."""
        if len(self.take(1)):
            self.fail("more bytes than its header says")


def check_size(path: Path, n: int, height: int, width: int) -> None:
    """Checks the shape that a file promises, before anything of that size is made."""
    if n < 1:
        fail(path, "no images in it")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        fail(path, f"images of {height} x {width} pixels, sides of 1..{MAX_SIDE} wanted")
    if n * height * width > MAX_PIXELS:
        fail(path, f"{n} images of {height} x {width} pixels, at most {MAX_PIXELS} pixels in all wanted")


def data_folder(data_dir: str | Path | None) -> Path:
    """`data_dir`, or the folder that the environment variable VLAE_DATA names, else ./data."""
    return checks.path("data_dir", (os.environ.get("VLAE_DATA") or "data") if data_dir is None else data_dir)


def find(data_dir: Path, *names: str) -> list[Path]:
    """Where the files of these names lie: in `data_dir` or one of its FOLDERS, as they are or gzipped.

    Raises MissingDataError, naming all that are missing.
    """

    def candidates(name: str) -> Iterator[Path]:
        for folder in FOLDERS:
            yield data_dir / folder / name
            yield data_dir / folder / f"{name}.gz"

    found = {name: next(filter(os.path.lexists, candidates(name)), None) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise MissingDataError(
            f"{str(data_dir)!r}: no {', '.join(missing)} (or .gz) there or in its folders {', '.join(FOLDERS[1:])};"
            " name the folder with --data-dir or the environment variable VLAE_DATA,"
            " or fetch the files with vlae-fast data download"
        )
    return [path for path in found.values() if path is not None]
