"""The op `weight_norm` and its operator."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.operator import register
from vlae_fast.ops.weight_norm import cpu, reference

__all__ = ["weight_norm"]


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """Weight normalisation of masked rows (Salimans & Kingma 2016, arXiv:1602.07868).

    `g * v / |v|` of every row's first `live` entries, 0 beyond; a row of a norm below 1e-8 counts as zero.

    Args:
        v: [R, n] float32, directions; entries beyond `live` are ignored and get zero gradient.
        g: [R], gains: the norms of the result's rows.
        live: [R] int64 in 0..n, how many leading entries of a row a mask leaves.

    Returns:
        [R, n], differentiable in v and g.

    Raises:
        TypeError: No tensor, or wrong dtype.
        ValueError: Wrong shape or device, or live out of range.
    """
    arguments = Arguments("weight_norm")
    v = arguments.tensor("v", v)
    g = arguments.tensor("g", g)
    live = arguments.tensor("live", live)
    if arguments.reference:
        values.within("live", live, f"values in 0..{v.shape[1]}", 0, v.shape[1])
        return reference.weight_norm(v, g, live)
    w: Tensor = torch.ops.vlae_fast.weight_norm(v, g, live)
    return w


def _fake(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    return torch.empty_like(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, ...]:
    dv, dg = torch.ops.vlae_fast.weight_norm_backward(dw.contiguous(), *ctx.saved_tensors)
    return dv, dg, None


def _backward_fake(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), torch.empty_like(g)


register(
    "weight_norm_backward(Tensor dw, Tensor v, Tensor g, Tensor live) -> (Tensor, Tensor)",
    cpu.weight_norm_backward,
    _backward_fake,
)
register("weight_norm(Tensor v, Tensor g, Tensor live) -> Tensor", cpu.weight_norm, _fake, _setup_context, _backward)
