"""The op `exp` and its operator."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.exp import cpu, reference
from vlae_fast.ops.operator import register

__all__ = ["exp"]


def exp(x: Tensor) -> Tensor:
    """exp(x) of every entry, within 4e-7 of its size, the same bits on all processors with fused multiply-add.

    Args:
        x: [...] float32.

    Returns:
        [...], differentiable. NaN stays NaN.

    Raises:
        TypeError: No tensor, or wrong dtype.
        ValueError: A device without a body.
    """
    arguments = Arguments("exp")
    x = arguments.of_any_shape("x", x)
    y: Tensor = reference.exp(x) if arguments.reference else torch.ops.vlae_fast.exp(x.view(-1)).view(x.shape)
    return y


def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    (y,) = ctx.saved_tensors
    return dy * y


register("exp(Tensor x) -> Tensor", cpu.exp, _fake, _setup_context, _backward)
