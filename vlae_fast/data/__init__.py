"""Binary images to learn from: the four published data sets, a stand-in, and a user's own files.

Nothing read here is trusted: no pickle, no size beyond what the file can hold, and whatever is wrong with a file is a
DataError of one line that names it.
"""

import os
import warnings
from pathlib import Path
from typing import Any

from vlae_fast import checks
from vlae_fast.data.dataset import SPLIT_SEED, Dataset, Order, own_dataset
from vlae_fast.data.files import DataError, MissingDataError
from vlae_fast.data.levels import ImageSize, make_splits
from vlae_fast.data.own import read_own
from vlae_fast.data.published import PUBLISHED, load_published
from vlae_fast.data.split import FIXED_DRAW_SEED, Split

__all__ = [
    "FIXED_DRAW_SEED",
    "NAMES",
    "SPLIT_SEED",
    "DataError",
    "Dataset",
    "MissingDataError",
    "Order",
    "Split",
    "load",
    "parse_size",
    "read_images",
]

NAMES = (*PUBLISHED, "digits")
"""Names of the data sets; digits comes with scikit-learn, the others from their published files."""


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    *,
    image_size: ImageSize | None = None,
    order: Order = "shuffled",
) -> Dataset:
    """The data set of this name (see NAMES), or the images of the file or folder `name`.

    Published files are looked for in `data_dir` (default: the environment variable VLAE_DATA, else ./data) and in
    folders mnist, static_mnist, caltech101_silhouettes, omniglot and omniglot_drawings there, gzipped or not. All come
    upright, ink = 1, in the splits of the papers. Files of the right names and other contents are read too, and the
    data set's name says so. A name of NAMES is the data set even where a file or folder is called so, and a warning
    says it: ./omniglot is that folder.

    A user's images come as .npy, .npz, idx or text (CSV; one line an image, the column of labels passed over), gzipped
    or not, or as a folder of PNGs of one size, with folders in it. Arrays are [n, H, W], [n, 1, H, W] or [n, H, W, 1],
    or rows [n, H * W] where `image_size` = (height, width) is given. Two values are static images, whatever they are:
    the larger is ink. Else floats in [0, 1] are probabilities of ink, whole numbers (and PNGs) grey values 0..255.

    Arrays and folders train, valid and test are these splits (also x_train, train_images, val, ...). What is missing
    is held out of the training images, a tenth (rounded down, at least one image) each, after they were shuffled with
    SPLIT_SEED; with `order="file"` these are the last ones.

    Raises MissingDataError where a file is not there, DataError where it is not what it should be, TypeError or
    ValueError for another order, no path and no size.
    """
    try:
        path = checks.path("name", name)
    except ValueError as error:
        raise DataError(str(error)) from None
    name = os.fspath(name)  # which, unlike path, keeps ./
    image_size = None if image_size is None else _size(image_size)
    data_dir = None if data_dir is None else checks.path("data_dir", data_dir)
    if name in NAMES:
        if os.path.lexists(path):
            warnings.warn(f"{name}: the data set of this name is taken; ./{name} is the file or folder", stacklevel=2)
        found = _digits() if name == "digits" else load_published(name, data_dir)
        size = found.train.height, found.train.width
        if image_size not in (None, size):
            raise DataError(f"image_size: {name} has images of {size}, got {image_size}")
        return found
    if not os.path.lexists(path):
        raise MissingDataError(f"{name!r}: no such file or folder, and no data set ({', '.join(NAMES)})")
    return own_dataset(name, path, *read_own(path, image_size), order)


def _size(value: Any) -> ImageSize:
    try:
        height, width = value
    except (TypeError, ValueError):
        raise TypeError(f"image_size: (height, width) in pixels wanted, got {checks.shown(value)}") from None
    return checks.whole("image_size", height, 1), checks.whole("image_size", width, 1)


def parse_size(text: str) -> ImageSize:
    """(height, width) of a text like 28x28. Raises ValueError."""
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise ValueError(f"image_size: HEIGHTxWIDTH in pixels wanted, like 28x28, got {text!r}")
    return int(height), int(width)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: scikit-learn is not installed; pip install vlae_fast[demo]") from error
    name = "digits (scikit-learn's, a stand-in)"
    return own_dataset(name, Path("digits"), {"train": load_digits().images / 16}, None, "file")


def read_images(path: str | Path, image_size: ImageSize | None = None) -> Split:
    """All images of a user's file or folder in their order, those of its parts one after the other.

    What it may be, and what its values mean, are as `load` has it. Raises DataError, or TypeError or ValueError for no
    path.
    """
    where = checks.path("path", path)
    parts, size = read_own(where, image_size)
    first, *rest = make_splits(where, list(parts.values()), size)[0]
    for part in rest:
        first = first.joined(part)
    return first
