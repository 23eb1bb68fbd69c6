"""CPU body of `exp`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops.arguments import operands

__all__ = ["exp"]


def exp(x: Tensor) -> Tensor:
    """See `vlae_fast.reference.exp`."""
    (n,) = operands("exp", torch.device("cpu"), x=x).values()
    y = torch.empty_like(x)
    _native.exponential(n, x.data_ptr(), y.data_ptr())
    return y
