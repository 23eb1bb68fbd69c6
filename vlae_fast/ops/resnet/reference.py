"""The meaning of `resnet`, for any float dtype and device."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from vlae_fast.ops.plain import column, conv, doubling_conv
from vlae_fast.params import ResNetBlockParams

__all__ = ["resnet"]

Visit = Callable[[int, str, Tensor], Tensor]
"""Sees (block, convolution, its result before the bias) and returns what goes on in its place."""


def resnet(
    x: Tensor, blocks: Sequence[ResNetBlockParams], *, residual_scale: float = 0.1, visit: Visit = lambda i, name, t: t
) -> Tensor:
    """`skip(x) + residual_scale * conv2(elu(conv1(elu(x))))`, block after block; "output": `conv1(elu(x))`.

    x [N, C, H, W] -> [N, K, H', W'], see `ResNetBlockParams`.
    """
    for i, block in enumerate(blocks):
        x = _block(x, block, residual_scale, lambda name, t, i=i: visit(i, name, t))  # type: ignore[misc]
    return x


def _block(
    x: Tensor, block: ResNetBlockParams, residual_scale: float, visit: Callable[[str, Tensor], Tensor]
) -> Tensor:
    stride = 2 if block.kind == "down" else 1
    size = block.size or tuple(2 * side for side in x.shape[2:])

    def convolved(name: str, t: Tensor, stride: int = 1) -> Tensor:
        weight, bias = getattr(block, f"{name}_weight"), getattr(block, f"{name}_bias")
        doubles = block.kind == "up" and name != "conv1"
        return visit(name, doubling_conv(t, weight, size) if doubles else conv(t, weight, stride)) + column(bias)

    y = convolved("conv1", F.elu(x), stride)
    if block.kind == "output":
        return y
    skip = x if block.kind == "same" else convolved("skip", x, stride)
    return skip + residual_scale * convolved("conv2", F.elu(y))
