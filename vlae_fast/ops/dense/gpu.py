"""The dense layer in plain torch: on a GPU its products are cuBLAS's."""

import torch.nn.functional as F
from torch import Tensor

from vlae_fast.ops.arguments import operands

__all__ = ["dense", "dense_backward"]


def dense(x: Tensor, weight: Tensor, bias: Tensor, pre_elu: bool) -> Tensor:
    """See `vlae_fast.reference.dense`."""
    operands("dense", None, x=x, weight=weight, bias=bias)
    return F.linear(F.elu(x) if pre_elu else x, weight, bias)


def dense_backward(dy: Tensor, x: Tensor, weight: Tensor, pre_elu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias) of `dense`."""
    operands("dense", None, x=x, weight=weight, dy=dy)
    e = F.elu(x) if pre_elu else x
    dx = dy @ weight
    return dx.mul_((e + 1).clamp_max_(1)) if pre_elu else dx, dy.T @ e, dy.sum(0)
