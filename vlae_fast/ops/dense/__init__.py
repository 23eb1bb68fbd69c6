"""The op `dense` and its operator."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.checks import flag
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.dense import cpu, reference
from vlae_fast.ops.operator import count_flops, register

__all__ = ["dense"]


def dense(x: Tensor, weight: Tensor, bias: Tensor, *, pre_elu: bool = False) -> Tensor:
    """A dense layer, `elu?(x) weight^T + bias`, each image's result the same bits whatever the batch around it.

    Args:
        x: [N, C] float32.
        weight: [K, C].
        bias: [K].
        pre_elu: Apply ELU to x first.

    Returns:
        [N, K], differentiable in all tensors.

    Raises:
        TypeError: No tensor, no flag, or wrong dtype.
        ValueError: Wrong shape or device. Values are not looked at: a NaN shows in the result.
    """
    pre_elu = flag("pre_elu", pre_elu)
    arguments = Arguments("dense")
    x = arguments.tensor("x", x)
    weight = arguments.tensor("weight", weight)
    bias = arguments.tensor("bias", bias)
    if arguments.reference:
        return reference.dense(x, weight, bias, pre_elu=pre_elu)
    y: Tensor = torch.ops.vlae_fast.dense(x, weight, bias, pre_elu)
    return y


def _fake(x: Tensor, weight: Tensor, bias: Tensor, pre_elu: bool) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.pre_elu = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.vlae_fast.dense_backward(dy.contiguous(), *ctx.saved_tensors, ctx.pre_elu), None


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, pre_elu: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[0])


register(
    "dense_backward(Tensor dy, Tensor x, Tensor weight, bool pre_elu) -> (Tensor, Tensor, Tensor)",
    cpu.dense_backward,
    _backward_fake,
)
register(
    "dense(Tensor x, Tensor weight, Tensor bias, bool pre_elu) -> Tensor", cpu.dense, _fake, _setup_context, _backward
)
count_flops("dense", lambda x, weight, *rest: 2 * x[0] * weight[0] * weight[1])
