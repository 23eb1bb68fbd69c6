"""A user's own file or folder: told by its content, whatever its name."""

import os
import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vlae_fast.data.files import Source, fail, open_file
from vlae_fast.data.levels import ImageSize
from vlae_fast.data.png import read_png_folder
from vlae_fast.data.readers import (
    IDX_MAGIC,
    NPY_MAGIC,
    ZIP_MAGIC,
    read_idx,
    read_npy,
    read_npy_stream,
    read_npz,
)
from vlae_fast.data.table import read_table

__all__ = ["read_own"]

WANTED = "an .npy, .npz, idx or CSV file or a folder of PNGs wanted"
# How a file begins that is not read, and the way out.
_HINTS = {
    b"\x89PNG": "one picture: name the folder of PNGs",
    b"\xff\xd8\xff": "a JPEG picture: convert them to PNGs in a folder",
    b"GIF8": "a GIF picture: convert them to PNGs in a folder",
    b"\0\0\x08\x01": "an idx file of labels: name the file of images",
    b"\x89HDF": "an HDF5 file (MATLAB 7.3 writes them too): save its images as .npy",
    b"MATLAB ": "a MATLAB file: name a published one by --data NAME --data-dir DIR, of others save the images as .npy",
    b"\x80": "a pickle, which may run code when it is read: save its images as .npy",
    b"PAR1": "a Parquet file: save its images as .npy",
}

_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f]")

Array = NDArray[Any]


def read_own(path: Path, size: ImageSize | None) -> tuple[dict[str, Array], ImageSize | None]:
    """The images of each part, "train" (all there are, if the file names no parts), "valid" and "test", and their size.

    `size` is the (height, width) to expect, returned where the format has none of its own. Raises DataError, with the
    way out where the kind of file is known.
    """
    if os.path.isdir(path):
        parts = read_png_folder(path)
        return parts, size or parts["train"].shape[1:]
    with open_file(path) as file:
        head = file.read(len(NPY_MAGIC))
    if head == NPY_MAGIC:
        return {"train": read_npy(path)}, size
    if head.startswith(ZIP_MAGIC):
        return read_npz(path), size
    with Source.open(path) as source:
        head = source.take(512).tobytes()
    for start, hint in _HINTS.items():
        if head.startswith(start):
            fail(path, f"{hint}; {WANTED}")
    with Source.open(path) as source:
        if head.startswith(IDX_MAGIC):
            images = read_idx(source)
            return {"train": images}, size or images.shape[1:]
        if head.startswith(NPY_MAGIC):
            return {"train": read_npy_stream(source)}, size
        if not head or _NO_TEXT.search(head):
            fail(path, WANTED)
        return {"train": read_table(source, size)}, size
