"""CPU bodies of `weight_norm`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands

__all__ = ["weight_norm", "weight_norm_backward"]

_CPU = torch.device("cpu")


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `vlae_fast.reference.weight_norm`."""
    R, n = operands("weight_norm", _CPU, v=v, g=g, live=live).values()
    values.within("live", live, f"values in 0..{n}", 0, n)
    w = torch.empty_like(v)
    _native.weight_norm(R, n, *addresses(v, g, live), torch.get_num_threads(), w.data_ptr())
    return w


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    R, n = operands("weight_norm", _CPU, v=v, g=g, live=live, dw=dw).values()
    values.within("live", live, f"values in 0..{n}", 0, n)
    dv, dg = torch.empty_like(v), torch.empty_like(g)
    _native.weight_norm_backward(R, n, *addresses(dw, v, g, live), torch.get_num_threads(), *addresses(dv, dg))
    return dv, dg
