"""Images of a data set in memory, and how binary images are drawn from them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.checks import flag, instance, shown, whole
from vlae_fast.noise import BINARIZATION, normals_and_uniforms

__all__ = ["FIXED_DRAW_SEED", "Split"]

FIXED_DRAW_SEED = 2016
"""Seed of the one draw by which dynamic validation and test images are made binary."""
LEAST_INK, MOST_INK = 0.02, 0.6
"""Shares of ink below and above which the images are hardly what they should be."""
_BLOCK_PIXELS = 2**22

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Split(torch.utils.data.Dataset[Tensor]):
    """Images of one split: training, validation or test. A torch Dataset too: `split[i]` is float32 [1, H, W].

    Where the split is dynamic these are probabilities of ink, to be drawn by `torch.bernoulli` each time they are used.
    """

    pixels: Array
    """[n, H * W] ink: uint8 in 1/255, or float16 or float32 where that would not be exact; static images are bits,
    eight to a byte, the first pixel highest: [n, ceil(H * W / 8)]."""
    height: int
    """Rows, pixels."""
    width: int
    """Columns, pixels."""
    dynamic: bool
    """Values are probabilities of ink, to be drawn; False: binary as they are."""

    def __post_init__(self) -> None:
        pixels = instance("pixels", self.pixels, np.ndarray)
        size = whole("height", self.height, 1) * whole("width", self.width, 1)
        kinds, columns = (
            ("uint8, float16 or float32", size) if flag("dynamic", self.dynamic) else ("uint8", -(-size // 8))
        )
        if pixels.dtype.name not in kinds or pixels.ndim != 2 or pixels.shape[1] != columns:
            raise ValueError(f"pixels: {kinds} [n, {columns}] wanted, got {pixels.dtype} {list(pixels.shape)}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        kind = "dynamic" if self.dynamic else "static"
        return f"Split({len(self)} {kind} images of {self.height}x{self.width})"

    def __getitem__(self, index: int) -> Tensor:
        i = whole("index", index, -(2**63))
        if not -len(self) <= i < len(self):
            raise IndexError(f"index: image {i} wanted of {len(self)}")
        return self.probabilities(np.array([i]))[0]

    def probabilities(self, indices: NDArray[np.int64] | slice) -> Tensor:
        """Probabilities of ink of these images, float32 [n, 1, H, W] in [0, 1]."""
        rows = self._rows(indices)
        if not self.dynamic:
            rows = np.unpackbits(rows, axis=1, count=self.height * self.width)
        white = 255 if self.dynamic and rows.dtype == np.uint8 else 1
        return torch.from_numpy(rows.astype(np.float32)).div_(white).view(-1, 1, self.height, self.width)

    def binary(self, indices: NDArray[np.int64] | slice, uniforms: Tensor) -> Tensor:
        """Images drawn by `uniforms` [n, 1, H, W] in [0, 1): float32, 1 where the uniform is below the probability.

        Raises ValueError where `uniforms` has another shape.
        """
        probabilities = self.probabilities(indices)
        if instance("uniforms", uniforms, Tensor).shape != probabilities.shape:
            raise ValueError(f"uniforms: shape {list(probabilities.shape)} wanted, got {list(uniforms.shape)}")
        return (uniforms < probabilities.to(uniforms.device)).float()

    def fixed(self, first: int = 0, count: int | None = None) -> Tensor:
        """Binary images first..first+count-1 (default: to the last), float32 [count, 1, H, W], the same at every call.

        Image i is drawn by the numbers of item i of the noise stream BINARIZATION under FIXED_DRAW_SEED; static images
        are as they are. Raises TypeError or ValueError where there are no such images.
        """
        first = whole("first", first, 0, len(self))
        left = len(self) - first
        count = left if count is None else whole("count", count, 0, left)
        images = self.probabilities(slice(first, first + count))
        if self.dynamic:
            pixels = self.height * self.width
            step = max(1, _BLOCK_PIXELS // pixels)
            for start in range(0, count, step):
                chunk = images[start : start + step]
                _, uniforms = normals_and_uniforms(FIXED_DRAW_SEED, BINARIZATION, first + start, len(chunk), 0, pixels)
                chunk.copy_(uniforms.view_as(chunk) < chunk)
        return images

    def ink(self) -> float:
        """Share of ink: the mean probability of a pixel."""
        if self.dynamic:
            return float(self.pixels.mean(dtype=np.float64)) / (255 if self.pixels.dtype == np.uint8 else 1)
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
        return float(bits[self.pixels].sum(dtype=np.int64)) / (len(self) * self.height * self.width)

    def doubts(self) -> list[str]:
        """A line for each thing about the images that looks wrong."""
        found, ink = [], self.ink() if len(self) else LEAST_INK
        if len(self) > 1 and (self.pixels == self.pixels[0]).all():
            found.append("all images are equal")
        if ink > MOST_INK:
            found.append(
                f"{ink:.1%} of the pixels are ink (the larger value), more than {MOST_INK:.0%}: inverted? "
                "If the paper is bright, save 255 - x, or 1 - x where the values are 0..1"
            )
        if ink < LEAST_INK:
            found.append(
                f"{ink:.2%} of the pixels are ink (the larger value), less than {LEAST_INK:.0%}: "
                "are the values of another range, or the images nearly blank?"
            )
        return found

    def digest(self) -> str:
        """sha256, hexadecimal, over the pixels, their number, size and kind."""
        what = f"{len(self)} {self.height} {self.width} {self.dynamic} {self.pixels.dtype.str}"
        hashed = hashlib.sha256(what.encode())
        hashed.update(np.ascontiguousarray(self.pixels).data)
        return hashed.hexdigest()

    def take(self, indices: NDArray[np.int64] | slice) -> "Split":
        """These of its images, in this order."""
        return replace(self, pixels=self._rows(indices))

    def _rows(self, indices: NDArray[np.int64] | slice) -> Array:
        """Their rows. Raises TypeError that names the argument, or numpy's IndexError."""
        if not isinstance(indices, slice):
            chosen = np.asarray(indices) if isinstance(indices, (np.ndarray, list)) else np.zeros(())
            if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iub"):
                raise TypeError(f"indices: a row of whole numbers or a slice wanted, got {shown(indices)}")
            indices = chosen if chosen.size else slice(0)
        return self.pixels[indices]

    def joined(self, other: "Split") -> "Split":
        """These images and those of another split of the same data set. Raises TypeError or ValueError for another."""
        theirs, mine = ((s.height, s.width, s.dynamic, s.pixels.dtype) for s in (instance("other", other, Split), self))
        if theirs != mine:
            raise ValueError(f"other: height, width, dynamic and dtype {mine} wanted, got {theirs}")
        return replace(self, pixels=np.concatenate([self.pixels, other.pixels]))
