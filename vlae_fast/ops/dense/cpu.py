"""CPU bodies of `dense`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops.arguments import addresses, operands

__all__ = ["dense", "dense_backward"]

_CPU = torch.device("cpu")


def dense(x: Tensor, weight: Tensor, bias: Tensor, pre_elu: bool) -> Tensor:
    """See `vlae_fast.reference.dense`."""
    N, C, K = operands("dense", _CPU, x=x, weight=weight, bias=bias).values()
    y = x.new_empty([N, K])
    _native.dense((N, C, K, pre_elu), *addresses(x, weight, bias), torch.get_num_threads(), y.data_ptr())
    return y


def dense_backward(dy: Tensor, x: Tensor, weight: Tensor, pre_elu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias) of `dense`."""
    N, C, K = operands("dense", _CPU, x=x, weight=weight, dy=dy).values()
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), x.new_empty([K])
    inputs, outputs = addresses(dy, x, weight), addresses(dx, dweight, dbias)
    _native.dense_backward((N, C, K, pre_elu), *inputs, torch.get_num_threads(), *outputs)
    return dx, dweight, dbias
