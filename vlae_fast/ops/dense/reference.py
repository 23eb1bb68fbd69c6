"""The meaning of `dense`, for any float dtype and device."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["dense"]


def dense(x: Tensor, weight: Tensor, bias: Tensor, *, pre_elu: bool = False) -> Tensor:
    """`elu?(x) weight^T + bias`: x [N, C], weight [K, C], bias [K] -> [N, K]."""
    return F.linear(F.elu(x) if pre_elu else x, weight, bias)
