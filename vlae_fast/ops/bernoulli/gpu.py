"""`bernoulli_log_prob` on a GPU is torch's."""

from torch import Tensor

from vlae_fast.ops.arguments import operands
from vlae_fast.ops.bernoulli import reference

__all__ = ["bernoulli_log_prob", "bernoulli_log_prob_backward"]


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """See `vlae_fast.reference.bernoulli_log_prob`."""
    operands("bernoulli", None, x=x, logits=logits)
    return reference.bernoulli_log_prob(x, logits)


def bernoulli_log_prob_backward(dy: Tensor, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dx, dlogits) of `bernoulli_log_prob`."""
    operands("bernoulli", None, x=x, logits=logits, dy=dy)
    return dy * logits, dy * (x - logits.sigmoid())
