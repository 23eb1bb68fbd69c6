"""CPU bodies of `bernoulli_log_prob`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops.arguments import addresses, operands

__all__ = ["bernoulli_log_prob", "bernoulli_log_prob_backward"]

_CPU = torch.device("cpu")


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """See `vlae_fast.reference.bernoulli_log_prob`."""
    (n,) = operands("bernoulli", _CPU, x=x, logits=logits).values()
    y = torch.empty_like(x)
    _native.bernoulli_log_prob(n, *addresses(x, logits, y))
    return y


def bernoulli_log_prob_backward(dy: Tensor, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dx, dlogits) of `bernoulli_log_prob`."""
    (n,) = operands("bernoulli", _CPU, x=x, logits=logits, dy=dy).values()
    dx, dlogits = torch.empty_like(x), torch.empty_like(logits)
    _native.bernoulli_log_prob_backward(n, *addresses(dy, x, logits, dx, dlogits))
    return dx, dlogits
