"""What the numbers of images mean: which values are ink, told from the whole set, and the images packed accordingly."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_fast.data.files import check_size, fail
from vlae_fast.data.split import Split

__all__ = ["make_splits"]

_BLOCK_PIXELS = 2**22
_FEW_LEVELS = 16
"""Grey levels of which at most so many occur were set, not measured: an even scale has none of 1.._FEW_LEVELS - 1."""

Array = NDArray[Any]
ImageSize = tuple[int, int]


def make_splits(path: Path, parts: Sequence[Array], size: ImageSize | None = None) -> tuple[list[Split], str]:
    """Checks the images and packs them as small as is exact (floats: to 4e-7 in probability).

    Args:
        path: named in errors.
        parts: images of each split, all of one kind of number (boolean, integer or float): [n, H, W], [n, 1, H, W] or
            [n, H, W, 1], or rows [n, H * W] where `size` tells their height and width.
        size: (height, width) that is wanted.

    Returns the splits, and in words what the values were taken for. Judged over all parts: two values are static
    images, the larger one ink, whatever they are; whole numbers up to 255 are grey of 255 if they look like it; floats
    in [0, 1] are probabilities of ink. Raises DataError for all else, with what would make it clear.
    """
    parts = [_images(path, part, size) for part in parts]
    _, height, width = parts[0].shape
    check_size(path, sum(map(len, parts)), height, width)
    kinds = {(part.dtype.kind.replace("i", "u"), part.shape[1:]) for part in parts}
    if len(kinds) > 1:
        fail(path, f"{', '.join(f'{part.dtype} {part.shape[1:]}' for part in parts)}: one type and image size wanted")

    def packed(dtype: Any, dynamic: bool, pack: Callable[[Array], Array]) -> list[Split]:
        return [_split(part, dtype, pack, height, width, dynamic) for part in parts]

    low, high = _range(path, parts)
    if low == high and high not in (0, 1, 255):
        fail(path, f"every pixel is {high:g}: nothing to learn from, and no telling whether it is ink")
    if _every(parts, lambda x: (x == low) | (x == high)):
        ink = high if low < high or high else 1  # nothing but 0 is blank
        said = f"values {low:g} and {high:g}" if low < high else f"every pixel {high:g}"
        return packed(np.uint8, False, lambda x: np.packbits(x == ink, axis=1)), said
    if high > 1 and _every(parts, lambda x: x.dtype.kind in "iu" or x == np.rint(x)):
        _check_grey(path, parts, low, high)
        return packed(np.uint8, True, lambda x: x), "grey 0..255"
    if low < 0 or high > 1:
        fail(
            path,
            f"values {low:g}..{high:g}, neither two values nor probabilities of ink in 0..1: rescale them to 0..1, "
            "by 1/255 where they are grey, by (x + 1) / 2 where they are -1..1",
        )

    def scaled(x: Array) -> NDArray[np.float32]:
        """In 1/255."""
        levels: NDArray[np.float32] = np.multiply(x, np.float32(255), dtype=np.float32)
        return levels

    said = "probabilities 0..1"
    if _every(parts, lambda x: np.abs(scaled(x) - np.rint(scaled(x))) < 1e-4):
        return packed(np.uint8, True, lambda x: np.rint(scaled(x))), said
    half = _every(parts, lambda x: x.astype(np.float32) == x.astype(np.float16))
    return packed(np.float16 if half else np.float32, True, lambda x: x), said


def _images(path: Path, part: Array, size: ImageSize | None) -> Array:
    """The images [n, H, W], at least one of them."""
    got = f"array of {part.dtype} {part.shape}"
    if part.dtype.kind not in "biuf" or part.ndim < 2 or len(part) == 0:
        fail(path, f"{got}, numbers [n, H, W], [n, 1, H, W] or [n, H, W, 1], at least one image, wanted")
    sides = [side for side in part.shape[1:] if side != 1]
    if size is not None:
        if sides not in ([side for side in size if side != 1], [size[0] * size[1]]):
            fail(path, f"{got}, images of {size[0]}x{size[1]} pixels wanted")
        return part.reshape(len(part), *size)
    if part.ndim == 4 and 1 in (part.shape[1], part.shape[3]):
        part = part[:, 0] if part.shape[1] == 1 else part[..., 0]
    if part.ndim == 2 or (part.ndim <= 4 and len(sides) == 1):  # [n, 784, 1]: no columns of pixels, most likely
        side = round(sides[0] ** 0.5) if sides else 1
        square = side**2 in (part[0].size, part[0].size - 1)  # maybe with a label
        shape, size_said = (f"[n, {side}, {side}]", f"{side}x{side}") if square else ("[n, H, W]", "HxW")
        fail(path, f"{got}, rows of numbers: reshape them to {shape}, or say image_size, {size_said}")
    if part.ndim != 3:
        channels = "; of colours, save the grey value" if part.ndim == 4 and part.shape[-1] in (3, 4) else ""
        fail(path, f"{got}, [n, H, W], [n, 1, H, W] or [n, H, W, 1] wanted{channels}")
    return part


def _blocks(part: Array) -> Iterator[tuple[int, Array]]:
    """(first image, values [k, H * W]) of all images, some at a time: a mapped file need not fit in memory."""
    pixels = part.shape[1] * part.shape[2]
    step = max(1, _BLOCK_PIXELS // pixels)
    for first in range(0, len(part), step):
        yield first, np.asarray(part[first : first + step]).reshape(-1, pixels)


def _every(parts: Sequence[Array], test: Callable[[Array], Any]) -> bool:
    return all(bool(np.all(test(x))) for part in parts for _, x in _blocks(part))


def _range(path: Path, parts: Sequence[Array]) -> tuple[Any, Any]:
    """The least and the largest value."""
    ends = [end for part in parts for _, x in _blocks(part) for end in (x.min(), x.max())]
    low, high = min(ends).item(), max(ends).item()
    if not all(np.isfinite(ends)):
        fail(path, "NaN or infinity among the values")
    return low, high


def _check_grey(path: Path, parts: Sequence[Array], low: float, high: float) -> None:
    """Refuses whole numbers that are not, or hardly, grey values of 255."""
    way = "; divide by the value that is full ink and save floats, or save booleans (x > 0 if all above 0 is ink)"
    if low < 0 or high > 255:
        fail(path, f"whole numbers {low:g}..{high:g}, grey 0..255 or only two values wanted{way}")
    counts = np.zeros(256, np.int64)
    for part in parts:
        for _, x in _blocks(part):
            counts += np.bincount(x.ravel().astype(np.uint8), minlength=256)
    above_0, few = counts[1:].sum(), np.count_nonzero(counts) <= _FEW_LEVELS
    if counts[128:].sum() < above_0 / 100:
        fail(path, f"whole numbers 0..{high:g}, hardly one of them above 127: no grey of 255{way}")
    if few and counts[1:_FEW_LEVELS].sum() > above_0 / 10:
        levels = ", ".join(map(str, np.flatnonzero(counts)))
        fail(path, f"the values {levels}: no grey of 255, but no two values either{way}")


def _split(part: Array, dtype: Any, pack: Callable[[Array], Array], height: int, width: int, dynamic: bool) -> Split:
    if dynamic and part.dtype == dtype and not isinstance(part, np.memmap):  # a mapped file may change under us
        return Split(part.reshape(len(part), -1), height, width, dynamic)
    columns = height * width if dynamic else -(-height * width // 8)
    pixels = np.empty((len(part), columns), dtype)
    for first, x in _blocks(part):
        pixels[first : first + len(x)] = pack(x)
    return Split(pixels, height, width, dynamic)
