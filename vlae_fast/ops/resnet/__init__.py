"""The op `resnet`, a row of residual blocks, and its operator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlae_fast import checks
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.operator import count_flops, register, worth_keeping
from vlae_fast.ops.resnet import cpu, reference
from vlae_fast.ops.resnet.wiring import Row, flat, flops, kept_floats, result_of, shapes_of, wiring
from vlae_fast.params import ResNetBlockParams, resnet_block

__all__ = ["resnet"]


def resnet(x: Tensor, blocks: Sequence[ResNetBlockParams], *, residual_scale: float = 0.1) -> Tensor:
    """Pre-activation residual blocks of 3x3 convolutions in one call (Kingma et al. 2016, arXiv:1606.04934, app. B, C).

    Each is `skip(x) + residual_scale * conv2(elu(conv1(elu(x))))`, of the same size, halving or doubling the image; an
    "output" block is `conv1(elu(x))`. Zero padding.

    Args:
        x: [N, C, H, W] float32, H and W at least 1.
        blocks: One or more, see `ResNetBlockParams`; each takes what the one before returns.
        residual_scale: Factor of every residual branch, finite.

    Returns:
        [N, K, H', W'] of the last block, differentiable in all tensors.

    Raises:
        TypeError: No tensor, no block, no number, or wrong dtype.
        ValueError: Wrong shape, kind, size or device, or a residual_scale that is not finite. Values are not looked at:
            a NaN shows in the result.
    """
    residual_scale = checks.real("residual_scale", residual_scale)
    arguments = Arguments("resnet")
    x = arguments.tensor("x", x)
    rows = wiring(x.shape, blocks)
    blocks = [_checked(arguments, f"blocks[{i}]", blocks[i], row) for i, row in enumerate(rows)]
    if arguments.reference:
        return reference.resnet(x, blocks, residual_scale=residual_scale)
    tensors, table = flat(blocks, rows)
    keep = worth_keeping(x.shape[0] * kept_floats(x.shape, table), x, *tensors)
    y: Tensor = torch.ops.vlae_fast.resnet(x, tensors, table, residual_scale, keep)[0]
    return y


def _checked(arguments: Arguments, name: str, block: ResNetBlockParams, row: Row) -> ResNetBlockParams:
    """The block with contiguous tensors of the shapes that its row tells."""
    tensors = [
        arguments.tensor(f"{name}.{field}", getattr(block, field), shape) for field, shape in shapes_of(row).items()
    ]
    return resnet_block(block.kind, tensors, block.size)


def _fake(
    x: Tensor, params: list[Tensor], table: list[int], residual_scale: float, keep: bool
) -> tuple[Tensor, Tensor]:
    kept = kept_floats(x.shape, table) if keep and x.device.type == "cpu" else 0
    return x.new_empty(x.shape[0], *result_of(table)), x.new_empty(x.shape[0], kept)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, params, *ctx.options, _ = inputs
    ctx.save_for_backward(x, output[1], *params)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # those of what is kept are large


def _backward(ctx: Any, dy: Tensor | None, dkept: None) -> tuple[Any, ...]:
    if dy is None:
        return None, [None] * (len(ctx.saved_tensors) - 2), None, None, None
    x, kept, *params = ctx.saved_tensors
    dx, *dparams = torch.ops.vlae_fast.resnet_backward(dy.contiguous(), x, params, *ctx.options, kept)
    return dx, dparams, None, None, None


def _backward_fake(dy: Tensor, x: Tensor, params: list[Tensor], *rest: Any) -> list[Tensor]:
    return [torch.empty_like(t) for t in (x, *params)]


_BLOCKS = "Tensor x, Tensor[] params, int[] table, float residual_scale"
register(f"resnet_backward(Tensor dy, {_BLOCKS}, Tensor kept) -> Tensor[]", cpu.resnet_backward, _backward_fake)
register(f"resnet({_BLOCKS}, bool keep) -> (Tensor, Tensor)", cpu.resnet, _fake, _setup_context, _backward)
count_flops("resnet", flops)
