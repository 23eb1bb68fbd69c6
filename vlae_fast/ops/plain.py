"""What the meanings of several ops share, in plain torch."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Visit", "column", "conv", "doubling_conv", "unchanged"]

Visit = Callable[[str, int, Tensor], Tensor]
"""Sees (layer name, layer index, activations before gain and bias) and returns what goes on in their place."""


def unchanged(name: str, index: int, t: Tensor) -> Tensor:
    """The visit that changes nothing."""
    return t


def column(per_channel: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return per_channel[:, None, None]


def conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolution with 3x3 or 1x1 filters and zero padding; torch's own refuses some sizes of 0."""
    if x.numel() and weight.numel():
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, stride=stride)
    return _nothing(x, weight).expand(len(x), len(weight), *(-(-side // stride) for side in x.shape[2:]))


def doubling_conv(x: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
    """Transposed convolution of stride 2 with filters [C, K, 3, 3], to twice as many rows and columns or one less."""
    if x.numel() and weight.numel():
        padding = [to - 2 * side + 1 for to, side in zip(size, x.shape[2:], strict=True)]
        return F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=padding)
    return _nothing(x, weight).expand(len(x), weight.shape[1], *size)


def _nothing(x: Tensor, weight: Tensor) -> Tensor:
    """One of them is empty: so is the result, or every sum of its pixels."""
    return 0 * (x.sum() + weight.sum())
