"""The ops `weight_norm` and `weight_norms`, and their operators."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlae_fast.checks import instance, whole
from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.operator import register
from vlae_fast.ops.weight_norm import cpu, reference

__all__ = ["weight_norm", "weight_norms"]


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


def weight_norms(v: Sequence[Tensor], g: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
    """Weight normalisation of many layers in one call (Salimans & Kingma 2016, arXiv:1602.07868).

    `g * v / |v|`, the norm taken for every index of `axis` over all other axes; what has a norm below 1e-8 is zero.

    Args:
        v: Directions, float32, any shapes.
        g: Gains, one for each index of the axis.
        axes: For every v its axis of outputs.

    Returns:
        Tensors of the shapes of v, differentiable in v and g.

    Raises:
        TypeError: No list, no tensor, no whole number, or wrong dtype.
        ValueError: Wrong shape, axis, number or device.
    """
    for name, value in (("v", v), ("g", g), ("axes", axes)):
        instance(name, value, Sequence)  # type: ignore[type-abstract]
    if not len(v) == len(g) == len(axes):
        raise ValueError(f"v, g, axes: as many of each wanted, got {len(v)}, {len(g)} and {len(axes)}")
    arguments = Arguments("weight_norm")
    v = [arguments.of_any_shape(f"v[{i}]", t) for i, t in enumerate(v)]
    axes = [whole(f"axes[{i}]", axis, 0, v[i].dim() - 1) for i, axis in enumerate(axes)]
    g = [arguments.tensor(f"g[{i}]", t, (v[i].shape[axes[i]],)) for i, t in enumerate(g)]
    if arguments.reference or not v:  # torch has no operator of no tensor
        return reference.weight_norms(v, g, axes)
    w: list[Tensor] = torch.ops.vlae_fast.weight_norms(v, g, axes)
    return w


def _all_fake(v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    return [torch.empty_like(t) for t in v]


def _all_setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    v, g, ctx.axes = inputs
    ctx.save_for_backward(*v, *g)


def _all_backward(ctx: Any, dw: list[Tensor]) -> tuple[Any, ...]:
    tensors, n = ctx.saved_tensors, len(ctx.axes)
    v, g = list(tensors[:n]), list(tensors[n:])
    gradients = torch.ops.vlae_fast.weight_norms_backward([t.contiguous() for t in dw], v, g, ctx.axes)
    return gradients[:n], gradients[n:], None if n else []


def _all_backward_fake(dw: list[Tensor], v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    return [torch.empty_like(t) for t in (*v, *g)]


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
register(
    "weight_norms_backward(Tensor[] dw, Tensor[] v, Tensor[] g, int[] axes) -> Tensor[]",
    cpu.weight_norms_backward,
    _all_backward_fake,
)
register(
    "weight_norms(Tensor[] v, Tensor[] g, int[] axes) -> Tensor[]",
    cpu.weight_norms,
    _all_fake,
    _all_setup_context,
    _all_backward,
)
