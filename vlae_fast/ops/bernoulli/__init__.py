"""The op `bernoulli_log_prob` and its operator."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.bernoulli import cpu, reference
from vlae_fast.ops.operator import register

__all__ = ["bernoulli_log_prob"]


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Log-likelihood of every pixel in nats, `x * logit - softplus(logit)`: the same bits on all processors with fused
    multiply-add, within 3e-7 of the larger of 1 and |logit|.

    Args:
        x: [...] float32: 0, 1, or a probability of 1 (then it is minus the cross-entropy).
        logits: [...], of the shape of x.

    Returns:
        [...], differentiable in both. NaN stays NaN, and an infinite logit becomes it.

    Raises:
        TypeError: No tensor, or wrong dtype.
        ValueError: Wrong shape, or a device without a body.
    """
    arguments = Arguments("bernoulli")
    x = arguments.of_any_shape("x", x)
    logits = arguments.tensor("logits", logits, x.shape)
    if arguments.reference:
        return reference.bernoulli_log_prob(x, logits)
    y: Tensor = torch.ops.vlae_fast.bernoulli_log_prob(x.view(-1), logits.view(-1))
    return y.view(x.shape)


def _fake(x: Tensor, logits: Tensor) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor] = torch.ops.vlae_fast.bernoulli_log_prob_backward(
        dy.contiguous(), *ctx.saved_tensors
    )
    return gradients


def _backward_fake(dy: Tensor, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(logits)


register(
    "bernoulli_log_prob_backward(Tensor dy, Tensor x, Tensor logits) -> (Tensor, Tensor)",
    cpu.bernoulli_log_prob_backward,
    _backward_fake,
)
register(
    "bernoulli_log_prob(Tensor x, Tensor logits) -> Tensor", cpu.bernoulli_log_prob, _fake, _setup_context, _backward
)
