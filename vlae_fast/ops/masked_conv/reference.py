"""The meaning of `masked_conv3x3`, for any float dtype and device."""

import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.ops.plain import column, conv

__all__ = ["masked_conv3x3"]


def masked_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mask: str,
    gain: Tensor | None = None,
    pre_elu: bool = False,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """`residual + residual_scale * (gain * conv(mask * weight, elu?(x)) + bias)`, raster-causal, zero padding.

    x [N, C, H, W], weight [K, C, 3, 3], bias and gain [K], residual [N, K, H, W] -> [N, K, H, W].
    """
    y = conv(F.elu(x) if pre_elu else x, masks.masked(weight, masks.causal3x3(mask, like=weight)))
    y = residual_scale * ((y if gain is None else column(gain) * y) + column(bias))
    return y if residual is None else residual + y
