"""A data set: three splits, what they were read as, and how a user's own images come to be split."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import checks
from vlae_fast.data.files import fail
from vlae_fast.data.levels import ImageSize, make_splits
from vlae_fast.data.split import Split
from vlae_fast.noise import ORDER, normals_and_uniforms

__all__ = ["SPLIT_SEED", "Dataset", "Order", "own_dataset"]

SPLIT_SEED = 2016
"""Seed by which a user's images are shuffled before some are held out: the same images in every training."""

Order = Literal["shuffled", "file"]
PARTS = ("train", "valid", "test")
Array = NDArray[Any]


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
    values: str = ""
    """What the numbers in its files were taken for."""
    held_out: str = ""
    """How validation and test images were chosen, where the files do not say it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = Split if field.name in PARTS else str
            checks.instance(field.name, getattr(self, field.name), kind)

    @classmethod
    def from_tensors(
        cls,
        train: Tensor | Array,
        valid: Tensor | Array | None = None,
        test: Tensor | Array | None = None,
        *,
        name: str = "tensors in memory",
        order: Order = "shuffled",
    ) -> "Dataset":
        """A data set of images in memory, tensors or arrays [n, H, W], [n, 1, H, W] or [n, H, W, 1].

        They are copied. Their values, and how what is None is held out of `train`, are as `load` has it. Raises
        TypeError for what is neither, ValueError (most are DataErrors) for shapes, values and order.
        """
        parts = {}
        for part, images in zip(PARTS, (train, valid, test), strict=True):
            if images is not None or part == "train":
                parts[part] = _array(part, images)
        checks.instance("name", name, str)
        return own_dataset(name, Path(name), parts, None, order)

    def digest(self) -> str:
        """sha256, hexadecimal, over the pixels of all splits: the same whatever the name, the file and its format."""
        parts = (split.digest() for split in (self.train, self.valid, self.test))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def describe(self) -> str:
        """What was read, in one line, and a line for each thing about it that looks wrong."""
        train, ink = self.train, self.train.ink()
        said = [
            f"{self.name}: {len(train)} training, {len(self.valid)} validation and {len(self.test)} test images "
            f"of {train.height}x{train.width} pixels",
            ("dynamic" if train.dynamic else "static") + (f" ({self.values})" if self.values else ""),
            f"ink {ink:.1%}",
        ]
        lines = [", ".join(said + [self.held_out] * bool(self.held_out))]
        lines += [f"WARNING: {doubt}" for doubt in train.doubts()]
        return "\n".join(lines)


def _array(part: str, images: Any) -> Array:
    """Images in memory as an array of its own. Raises TypeError that names the part."""
    if isinstance(images, Tensor):
        if images.is_nested or images.layout != torch.strided or images.is_meta:
            got = "a nested one" if images.is_nested else f"{images.layout} on {images.device}"
            raise TypeError(f"{part}: a dense tensor with values wanted, got {got}")
        try:
            images = (images.float() if images.dtype == torch.bfloat16 else images).numpy(force=True)
        except TypeError:
            raise TypeError(f"{part}: numbers that numpy knows wanted, got {images.dtype}") from None
    if not isinstance(images, np.ndarray) or isinstance(images, np.ma.MaskedArray):
        raise TypeError(f"{part}: a tensor or array wanted, got {type(images).__name__}")
    return images.copy()


def own_dataset(name: str, path: Path, parts: Mapping[str, Array], size: ImageSize | None, order: Order) -> Dataset:
    """A user's images `parts`, "train" among them: see `make_splits`; what is missing is held out of "train".

    Each part that is held out is a tenth of "train", at least one image. Raises DataError, naming `path`, and
    ValueError for another order.
    """
    checks.choice("order", order, get_args(Order))
    there = [part for part in PARTS if part in parts]
    packed, values = make_splits(path, [parts[part] for part in there], size)
    splits = dict(zip(there, packed, strict=True))
    missing = [part for part in PARTS if part not in parts]
    held_out = ""
    if missing:
        whole, n = splits["train"], len(splits["train"])
        if n <= len(missing):
            what = " and ".join(missing)
            fail(path, f"{n} images to learn from, at least {len(missing) + 1} wanted, to hold out {what}")
        indices = np.arange(n)
        if order == "shuffled":
            indices = np.argsort(normals_and_uniforms(SPLIT_SEED, ORDER, 0, n, 0, 1)[1][:, 0].numpy(), kind="stable")
        tenth = max(1, n // 10)
        kept = n - len(missing) * tenth
        splits["train"] = whole.take(indices[:kept])
        for i, part in enumerate(missing):
            splits[part] = whole.take(indices[kept + i * tenth : kept + (i + 1) * tenth])
        how = f"at random with seed {SPLIT_SEED}" if order == "shuffled" else "from the end"
        held_out = f"{' and '.join(missing)} held out {how}"
    return Dataset(name, splits["train"], splits["valid"], splits["test"], values, held_out)
