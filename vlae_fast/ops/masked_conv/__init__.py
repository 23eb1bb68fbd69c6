"""The op `masked_conv3x3` and its operator."""

from typing import Any, Literal

import torch
from torch import Tensor

from vlae_fast import checks
from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.masked_conv import cpu, reference
from vlae_fast.ops.operator import register

__all__ = ["masked_conv3x3"]


def masked_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mask: Literal["A", "B"],
    gain: Tensor | None = None,
    pre_elu: bool = False,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """Raster-causal 3x3 convolution with zero padding (van den Oord et al. 2016, arXiv:1601.06759, sec. 3.4).

    `residual + residual_scale * (gain * conv(mask * weight, elu?(x)) + bias)`; mask A sees the pixels before, mask B
    the pixel itself too.

    Args:
        x: [N, C, H, W] float32.
        weight: [K, C, 3, 3]; taps that the mask forbids are ignored and get zero gradient.
        bias: [K].
        mask: "A" (4 taps) or "B" (5 taps).
        gain: [K] or None for 1.
        pre_elu: Apply ELU to x first.
        residual: [N, K, H, W] or None for 0.
        residual_scale: Factor of all but the residual, finite.

    Returns:
        [N, K, H, W], differentiable in all tensors.

    Raises:
        TypeError: No tensor, no number, or wrong dtype.
        ValueError: Wrong shape or device, or a residual_scale that is not finite; a NonFiniteError for NaN or infinity
            in x or residual.
    """
    checks.choice("mask", mask, ("A", "B"))
    pre_elu = checks.flag("pre_elu", pre_elu)
    residual_scale = checks.real("residual_scale", residual_scale)
    arguments = Arguments("masked_conv3x3")
    x = arguments.tensor("x", x)
    weight = arguments.tensor("weight", weight)
    bias = arguments.tensor("bias", bias)
    gain = arguments.optional("gain", gain)
    residual = arguments.optional("residual", residual)
    if arguments.reference:
        values.finite(x=x, residual=residual)
        return reference.masked_conv3x3(
            x, weight, bias, mask=mask, gain=gain, pre_elu=pre_elu, residual=residual, residual_scale=residual_scale
        )
    y: Tensor = torch.ops.vlae_fast.masked_conv3x3(x, weight, bias, gain, residual, mask, pre_elu, residual_scale)
    return y


def _fake(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, gain, residual, *ctx.options = inputs
    ctx.has_residual = residual is not None
    ctx.save_for_backward(x, weight, gain)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gain = ctx.saved_tensors
    dx, dweight, dbias, dgain = torch.ops.vlae_fast.masked_conv3x3_backward(
        dy.contiguous(), x, weight, gain, *ctx.options
    )
    return dx, dweight, dbias, None if gain is None else dgain, dy if ctx.has_residual else None, None, None, None


def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    K = weight.shape[0]
    dgain = x.new_empty(0 if gain is None else K)
    return torch.empty_like(x), torch.empty_like(weight), x.new_empty(K), dgain


_OPTIONS = "str mask, bool pre_elu, float residual_scale"
register(
    f"masked_conv3x3_backward(Tensor dy, Tensor x, Tensor weight, Tensor? gain, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu.masked_conv3x3_backward,
    _backward_fake,
)
register(
    f"masked_conv3x3(Tensor x, Tensor weight, Tensor bias, Tensor? gain, Tensor? residual, {_OPTIONS}) -> Tensor",
    cpu.masked_conv3x3,
    _fake,
    _setup_context,
    _backward,
)
