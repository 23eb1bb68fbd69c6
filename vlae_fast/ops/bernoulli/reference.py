"""The meaning of `bernoulli_log_prob`, for any float dtype and device."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bernoulli_log_prob"]


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """`x * logit - softplus(logit)` of every entry."""
    return x * logits - F.softplus(logits)
