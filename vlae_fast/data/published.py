"""The four published data sets: their files, told by checksum, and the papers' way to read them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vlae_fast.data.dataset import Dataset
from vlae_fast.data.files import DataError, Source, data_folder, fail, find
from vlae_fast.data.levels import make_splits
from vlae_fast.data.matlab import read_mat
from vlae_fast.data.readers import read_amat, read_idx

__all__ = ["NOT_PUBLISHED", "PUBLISHED", "RemoteFile", "load_published"]

NOT_PUBLISHED = " (not the published files)"
"""Ends the name of a data set whose files have other contents than the published ones."""
_SIDE = 28

Array = NDArray[Any]


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    folder: str
    """Where it belongs below the data folder."""
    url: str
    """Public address."""
    checksum: str
    """`sha256:...` or `md5:...`, hexadecimal, of the content: of the unpacked file where it is gzip."""

    @property
    def name(self) -> str:
        """Its name, the last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def algorithm(self) -> str:
        """That of the checksum."""
        return self.checksum.partition(":")[0]

    def read(self, source: Source) -> bool:
        """Whether what was read of a source, and what is left of it, is the published content."""
        for _ in source.blocks(2**20):
            pass
        return source.hashed is not None and f"{source.hashed.name}:{source.hashed.hexdigest()}" == self.checksum

    def fits(self, path: Path) -> bool:
        """Whether a file, gzipped or not, has the published content. Raises MissingDataError."""
        try:
            with Source.open(path, self.algorithm) as source:
                return self.read(source)
        except DataError:
            return False


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_STATIC_MNIST = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"
PUBLISHED = {
    "dynamic-mnist": tuple(
        RemoteFile("mnist", f"{_MNIST}{part}-images-idx3-ubyte.gz", f"sha256:{checksum}")
        for part, checksum in (
            ("train", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            ("t10k", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        )
    ),
    "static-mnist": tuple(
        RemoteFile("static_mnist", f"{_STATIC_MNIST}{part}.amat", f"sha256:{checksum}")
        for part, checksum in (
            ("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
            ("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
            ("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
        )
    ),
    "caltech101": (
        RemoteFile(
            "caltech101_silhouettes",
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
            "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
        ),
    ),
    "omniglot": (
        RemoteFile(
            "omniglot",
            "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",
            "md5:21ecaf34373511aa7691cf2e0802aa3d",
        ),
    ),
}
"""Files of each data set."""


def load_published(name: str, data_dir: str | Path | None) -> Dataset:
    """The data set of one of the names in PUBLISHED; the name says so where a file has not the published content."""
    files = PUBLISHED[name]
    paths = find(data_folder(data_dir), *(file.name.removesuffix(".gz") for file in files))
    found, published = [], True
    for path, file in zip(paths, files, strict=True):
        with Source.open(path, file.algorithm) as source:
            found.append(_READERS[name](source))
            published &= file.read(source)
    parts = [part for parts in found for part in parts]
    if len(parts) == 2:
        parts = [*_hold_out(paths[0], parts[0], _VALIDATION_IMAGES[name]), parts[1]]
    (train, valid, test), values = make_splits(paths[0], parts)
    return Dataset(name if published else name + NOT_PUBLISHED, train, valid, test, values)


def _hold_out(path: Path, images: Array, count: int) -> list[Array]:
    """Training images, and the last `count` of them for validation."""
    if len(images) <= count:
        fail(path, f"{len(images)} training images, more than the {count} for validation wanted")
    return [images[:-count], images[-count:]]


def _columns(path: Path, matrix: Array) -> Array:
    """Upright images [n, 28, 28] of a matrix [n, 784] that holds them column after column."""
    if matrix.shape[1] != _SIDE * _SIDE:
        fail(path, f"matrix of {matrix.shape}, images of {_SIDE} x {_SIDE} pixels wanted")
    images: Array = matrix.reshape(-1, _SIDE, _SIDE).transpose(0, 2, 1)
    return images


def _matrices(source: Source, *names: str) -> list[Array]:
    data = memoryview(b"".join(block.data for block in source.blocks(2**24)))
    matrices = read_mat(source.path, data, set(names))
    for name in names:
        if not ((matrices[name] >= 0) & (matrices[name] <= 1)).all():  # NaN is neither
            source.fail(f"{name}: values outside 0..1")
    return [matrices[name] for name in names]


def _caltech101(source: Source) -> list[Array]:
    matrices = _matrices(source, "train_data", "val_data", "test_data")
    if not all(((matrix == 0) | (matrix == 1)).all() for matrix in matrices):
        source.fail("values other than 0 and 1")
    return [_columns(source.path, matrix) == 0 for matrix in matrices]  # as published, the object is 0


_READERS: dict[str, Callable[[Source], list[Array]]] = {
    "dynamic-mnist": lambda source: [read_idx(source)],
    "static-mnist": lambda source: [read_amat(source, _SIDE, _SIDE)],
    "caltech101": _caltech101,
    "omniglot": lambda source: [_columns(source.path, m.T) for m in _matrices(source, "data", "testdata")],
}
"""The images of each file: of training, validation and test, or of training and test."""
_VALIDATION_IMAGES = {"dynamic-mnist": 10_000, "omniglot": 1_345}
"""The papers' validation images, the last so many of the training images, where the files hold none."""
