"""What the meanings of several ops share, in plain torch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Visit", "column", "conv", "unchanged"]

Visit = Callable[[str, int, Tensor], Tensor]
"""Sees (layer name, layer index, activations before gain and bias) and returns what goes on in their place."""


def unchanged(name: str, index: int, t: Tensor) -> Tensor:
    """The visit that changes nothing."""
    return t


def column(per_channel: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]."""
    return per_channel[:, None, None]


def conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with 3x3 or 1x1 filters and zero padding; torch's own refuses some sizes of 0."""
    if x.numel() and weight.numel():
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    nothing = 0 * (x.sum() + weight.sum())  # one of them is empty: so is the result, or every sum of its pixels
    return nothing.expand(len(x), len(weight), *x.shape[2:])
