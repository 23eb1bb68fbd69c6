"""Binary images to learn from: the four published data sets, a stand-in, and a user's own files.

Nothing read here is trusted: no pickle, no size beyond what the file can hold, and whatever is wrong with a file is a
DataError of one line that names it.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vlae_fast.data.files import DataError, MissingDataError, Source, data_folder, fail, find, open_file
from vlae_fast.data.matlab import read_mat
from vlae_fast.data.readers import NPY_MAGIC, ZIP_MAGIC, read_amat, read_idx, read_npy, read_npz, read_png_folder
from vlae_fast.data.split import FIXED_DRAW_SEED, Dataset, Split, make_splits

__all__ = ["FIXED_DRAW_SEED", "NAMES", "DataError", "Dataset", "MissingDataError", "Split", "load"]

_SIDE = 28
_OMNIGLOT_PUBLISHED_MD5 = "21ecaf34373511aa7691cf2e0802aa3d"

Array = NDArray[Any]


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """The data set of this name (see NAMES), or the images of the .npy or .npz file or folder of PNGs `name`.

    Published files are looked for in `data_dir` (default: the environment variable VLAE_DATA, else ./data) and in
    folders mnist, static_mnist, caltech101_silhouettes, omniglot and omniglot_drawings there, gzipped or not. All come
    upright, ink = 1, in the splits of the papers.

    A user's images are [n, H, W] or [n, 1, H, W]: floats in [0, 1], integers 0..255 (or only 0 and 1), or booleans; of
    a PNG its grey value / 255. Where they are not two-valued they are probabilities of ink. An .npz file brings arrays
    train, valid and test; a single array is split in order: its last tenth (rounded down, at least one image) is for
    the test, the tenth before it for validation.

    Raises MissingDataError where a file is not there, DataError where it is not what it should be.
    """
    if name in _READERS:
        return _READERS[name](data_folder(data_dir))
    path = Path(name)
    if not os.path.lexists(path):
        raise MissingDataError(f"{name!r}: no such file or folder, and no data set ({', '.join(NAMES)})")
    if os.path.isdir(path):
        return Dataset(name, *make_splits(path, _tenths(path, read_png_folder(path)), white=255))
    with open_file(path) as file:
        magic = file.read(len(NPY_MAGIC))
    if magic == NPY_MAGIC:
        parts = _tenths(path, read_npy(path))
    elif magic.startswith(ZIP_MAGIC):
        arrays = read_npz(path)
        parts = (
            [arrays[key] for key in ("train", "valid", "test")] if len(arrays) == 3 else _tenths(path, *arrays.values())
        )
    else:
        fail(path, "an .npy or .npz file or a folder of PNGs wanted")
    return Dataset(name, *make_splits(path, parts))


def _tenths(path: Path, images: Array) -> list[Array]:
    """Training, validation and test images: the last two tenths, at least one image each, are held out."""
    if images.ndim == 0 or len(images) < 3:
        fail(path, f"array of shape {images.shape}, at least 3 images wanted")
    tenth = max(1, len(images) // 10)
    return [images[: -2 * tenth], images[-2 * tenth : -tenth], images[-tenth:]]


def _hold_out(path: Path, images: Array, count: int) -> list[Array]:
    """Training images, and the last `count` of them for validation."""
    if len(images) <= count:
        fail(path, f"{len(images)} training images, more than the {count} for validation wanted")
    return [images[:-count], images[-count:]]


def _static_mnist(data_dir: Path) -> Dataset:
    files = find(data_dir, *(f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")))
    parts = [read_amat(file, _SIDE, _SIDE) for file in files]
    return Dataset("static-mnist", *make_splits(files[0], parts, white=1))


def _dynamic_mnist(data_dir: Path) -> Dataset:
    train, test = find(data_dir, "train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
    parts = [*_hold_out(train, read_idx(train), 10_000), read_idx(test)]
    return Dataset("dynamic-mnist", *make_splits(train, parts, white=255))


def _columns(path: Path, matrix: Array) -> Array:
    """Upright images [n, 28, 28] of a matrix [n, 784] that holds them column after column."""
    if matrix.shape[1] != _SIDE * _SIDE:
        fail(path, f"matrix of {matrix.shape}, images of {_SIDE} x {_SIDE} pixels wanted")
    images: Array = matrix.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)
    return images


def _read_whole(path: Path) -> memoryview:
    with Source.open(path) as source:
        return memoryview(b"".join(block.data for block in source.blocks(2**24)))


def _caltech101(data_dir: Path) -> Dataset:
    (path,) = find(data_dir, "caltech101_silhouettes_28_split1.mat")
    keys = ["train_data", "val_data", "test_data"]
    matrices = read_mat(path, _read_whole(path), set(keys))
    if not all(((matrix == 0) | (matrix == 1)).all() for matrix in matrices.values()):
        fail(path, "values other than 0 and 1")
    parts = [_columns(path, matrices[key]) == 0 for key in keys]  # as published, the object is 0
    return Dataset("caltech101", *make_splits(path, parts, white=1))


def _omniglot(data_dir: Path) -> Dataset:
    (path,) = find(data_dir, "chardata.mat")
    data = _read_whole(path)
    published = hashlib.md5(data, usedforsecurity=False).hexdigest() == _OMNIGLOT_PUBLISHED_MD5
    matrices = read_mat(path, data, {"data", "testdata"})
    train, test = (_columns(path, matrices[key].T) for key in ("data", "testdata"))
    parts = [*_hold_out(path, train, 1_345), test]
    name = "omniglot" if published else "omniglot (stand-in drawings, not the published file)"
    return Dataset(name, *make_splits(path, parts, white=1))


def _digits(_: Path) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: scikit-learn is not installed; pip install vlae_fast[demo]") from error
    path = Path("digits")
    parts = _tenths(path, load_digits().images / 16)
    return Dataset("digits (scikit-learn's, a stand-in)", *make_splits(path, parts))


_READERS: dict[str, Callable[[Path], Dataset]] = {
    "static-mnist": _static_mnist,
    "dynamic-mnist": _dynamic_mnist,
    "omniglot": _omniglot,
    "caltech101": _caltech101,
    "digits": _digits,
}
NAMES = tuple(_READERS)
"""Names of the data sets; digits comes with scikit-learn, the others from their published files."""
