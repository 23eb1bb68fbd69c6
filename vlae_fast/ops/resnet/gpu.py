"""ResNet blocks in plain torch: on a GPU the convolutions are cuDNN's."""

import torch
from torch import Tensor

from vlae_fast.ops.arguments import operands
from vlae_fast.ops.resnet import reference
from vlae_fast.ops.resnet.wiring import KINDS, checked_rows, unflat
from vlae_fast.params import resnet_block

__all__ = ["resnet", "resnet_backward"]


def resnet(
    x: Tensor, params: list[Tensor], table: list[int], residual_scale: float, keep: bool = False
) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.resnet`; nothing is kept, [N, 0]: the backward pass runs it again."""
    return _forward(x, params, table, residual_scale), x.new_empty(len(x), 0)


def _forward(x: Tensor, params: list[Tensor], table: list[int], residual_scale: float) -> Tensor:
    operands("resnet", None, x=x)
    checked_rows(x, params, table, x.device)
    blocks = [
        resnet_block(KINDS[row.kind], list(tensors.values()), (row.H, row.W)) for row, tensors in unflat(params, table)
    ]
    return reference.resnet(x, blocks, residual_scale=residual_scale)


def resnet_backward(
    dy: Tensor, x: Tensor, params: list[Tensor], table: list[int], residual_scale: float, kept: Tensor
) -> list[Tensor]:
    """Gradients [dx, *dparams] of `resnet`."""
    operands("resnet", None, x=x, dy=dy, kept=kept)
    checked_rows(x, params, table, x.device, dy, kept)
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, *params)]
        y = _forward(leaves[0], leaves[1:], table, residual_scale)
    return list(torch.autograd.grad(y, leaves, dy))
