"""The meaning of `weight_norm`, for any float dtype and device."""

import torch
from torch import Tensor

__all__ = ["weight_norm"]


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """`g * v / |v|` of every row's first `live` entries (Salimans & Kingma 2016, arXiv:1602.07868), 0 beyond.

    v [R, n], g [R], live [R] int64 in 0..n -> [R, n]. A row of a norm below 1e-8 counts as zero, and so do its
    gradients.
    """
    v = v.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return g[:, None] * (norm >= 1e-8) * v / norm.clamp_min(1e-8)
