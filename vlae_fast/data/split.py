"""Images of a data set in memory, and how binary images are drawn from them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.data.files import check_size, fail
from vlae_fast.noise import BINARIZATION, normals_and_uniforms

__all__ = ["FIXED_DRAW_SEED", "Dataset", "Split", "make_splits"]

FIXED_DRAW_SEED = 2016
"""Seed of the one draw by which dynamic validation and test images are made binary."""
_BLOCK_PIXELS = 2**22

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split: training, validation or test."""

    pixels: Array
    """[n, H * W] ink: uint8 in 1/255, or float16 or float32 where that would not be exact; static images are bits,
    eight to a byte, the first pixel highest: [n, ceil(H * W / 8)]."""
    height: int
    """Rows, pixels."""
    width: int
    """Columns, pixels."""
    dynamic: bool
    """Values are probabilities of ink, to be drawn; False: binary as they are."""

    def __len__(self) -> int:
        return len(self.pixels)

    def probabilities(self, indices: NDArray[np.int64] | slice) -> Tensor:
        """Probabilities of ink of these images, float32 [n, 1, H, W] in [0, 1]."""
        rows = self.pixels[indices]
        if not self.dynamic:
            rows = np.unpackbits(rows, axis=1, count=self.height * self.width)
        white = 255 if self.dynamic and rows.dtype == np.uint8 else 1
        return torch.from_numpy(rows.astype(np.float32)).div_(white).view(-1, 1, self.height, self.width)

    def binary(self, indices: NDArray[np.int64] | slice, uniforms: Tensor) -> Tensor:
        """Images drawn by `uniforms` [n, 1, H, W] in [0, 1): float32, 1 where the uniform is below the probability.

        Raises ValueError where `uniforms` has another shape.
        """
        probabilities = self.probabilities(indices)
        if uniforms.shape != probabilities.shape:
            raise ValueError(f"uniforms: shape {tuple(uniforms.shape)}, {tuple(probabilities.shape)} wanted")
        return (uniforms < probabilities.to(uniforms.device)).float()

    def fixed(self, first: int = 0, count: int | None = None) -> Tensor:
        """Binary images first..first+count-1 (default: to the last), float32 [count, 1, H, W], the same at every call.

        Image i is drawn by the numbers of item i of the noise stream BINARIZATION under FIXED_DRAW_SEED; static images
        are as they are. Raises ValueError where there are no such images.
        """
        count = len(self) - first if count is None else count
        if not 0 <= first <= first + count <= len(self):
            raise ValueError(f"images {first}..{first + count - 1} wanted of {len(self)}")
        images = self.probabilities(slice(first, first + count))
        if self.dynamic:
            pixels = self.height * self.width
            step = max(1, _BLOCK_PIXELS // pixels)
            for start in range(0, count, step):
                chunk = images[start : start + step]
                _, uniforms = normals_and_uniforms(FIXED_DRAW_SEED, BINARIZATION, first + start, len(chunk), 0, pixels)
                chunk.copy_(uniforms.view_as(chunk) < chunk)
        return images

    def digest(self) -> str:
        """sha256, hexadecimal, over the pixels, their number, size and kind."""
        what = f"{len(self)} {self.height} {self.width} {self.dynamic} {self.pixels.dtype.str}"
        hashed = hashlib.sha256(what.encode())
        hashed.update(np.ascontiguousarray(self.pixels).data)
        return hashed.hexdigest()

    def joined(self, other: "Split") -> "Split":
        """These images and those of another split of the same data set."""
        return replace(self, pixels=np.concatenate([self.pixels, other.pixels]))


@dataclass(frozen=True)
class Dataset:
    """A data set under the name that stands wherever its numbers appear, in its three splits."""

    name: str
    """Stands wherever its numbers appear."""
    train: Split
    """Images to learn from."""
    valid: Split
    """Images to choose weights by."""
    test: Split
    """Images to report on."""

    def digest(self) -> str:
        """sha256, hexadecimal, over the pixels of all splits: the same whatever the name, the file and its format."""
        parts = (split.digest() for split in (self.train, self.valid, self.test))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def make_splits(path: Path, parts: Sequence[Array], white: int | None = None) -> list[Split]:
    """Checks the images and packs them as small as is exact (floats: to 4e-7 in probability).

    Args:
        path: named in errors.
        parts: images [n, H, W] or [n, 1, H, W] of each split, all of one dtype: boolean, integer or float.
        white: the value that means ink for certain. Default: 1 for floats, and for integers none of which is above 1;
            else 255.

    Images are static where every value of all parts is 0 or `white`. Raises DataError.
    """
    parts = [_images(path, part) for part in parts]
    _, height, width = parts[0].shape
    check_size(path, sum(map(len, parts)), height, width)
    if len({(part.dtype, part.shape[1:]) for part in parts}) > 1:
        fail(path, f"{', '.join(f'{part.dtype} {part.shape[1:]}' for part in parts)}: one type and image size wanted")

    def every(test: Callable[[Array], Any]) -> bool:
        return all(bool(np.all(test(x))) for part in parts for _, x in _blocks(part))

    if white is None:
        white = 255 if parts[0].dtype.kind in "iu" and not every(lambda x: x <= 1) else 1
    if not every(lambda x: (x >= 0) & (x <= white)):  # NaN is neither
        fail(path, f"values outside 0..{white}, or not a number")
    if every(lambda x: (x == 0) | (x == white)):
        return [_split(part, np.uint8, lambda x: np.packbits(x != 0, axis=1), height, width, False) for part in parts]

    def scaled(x: Array) -> NDArray[np.float32]:
        """In 1/255."""
        levels: NDArray[np.float32] = np.multiply(x, np.float32(255 / white), dtype=np.float32)
        return levels

    if every(lambda x: np.abs(scaled(x) - np.rint(scaled(x))) < 1e-4):
        return [_split(part, np.uint8, lambda x: np.rint(scaled(x)), height, width, True) for part in parts]
    half = every(lambda x: x.astype(np.float32) == x.astype(np.float16))
    return [_split(part, np.float16 if half else np.float32, lambda x: x, height, width, True) for part in parts]


def _images(path: Path, part: Array) -> Array:
    """The images [n, H, W], at least one of them."""
    images = part[:, 0] if part.ndim == 4 and part.shape[1] == 1 else part
    if images.ndim != 3 or len(images) == 0 or images.dtype.kind not in "biuf":
        fail(path, f"array of {part.dtype} {part.shape}, numbers [n, H, W] or [n, 1, H, W] wanted")
    return images


def _blocks(part: Array) -> Iterator[tuple[int, Array]]:
    """(first image, values [k, H * W]) of all images, some at a time: a mapped file need not fit in memory."""
    pixels = part.shape[1] * part.shape[2]
    step = max(1, _BLOCK_PIXELS // pixels)
    for first in range(0, len(part), step):
        yield first, np.asarray(part[first : first + step]).reshape(-1, pixels)


def _split(part: Array, dtype: Any, pack: Callable[[Array], Array], height: int, width: int, dynamic: bool) -> Split:
    if dynamic and part.dtype == dtype and not isinstance(part, np.memmap):  # a mapped file may change under us
        return Split(part.reshape(len(part), -1), height, width, dynamic)
    columns = height * width if dynamic else -(-height * width // 8)
    pixels = np.empty((len(part), columns), dtype)
    for first, x in _blocks(part):
        pixels[first : first + len(x)] = pack(x)
    return Split(pixels, height, width, dynamic)
