"""The meaning of `weight_norm` and `weight_norms`, for any float dtype and device."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["weight_norm", "weight_norms"]


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """`g * v / |v|` of every row's first `live` entries (Salimans & Kingma 2016, arXiv:1602.07868), 0 beyond.

    v [R, n], g [R], live [R] int64 in 0..n -> [R, n]. A row of a norm below 1e-8 counts as zero, and so do its
    gradients.
    """
    v = v.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return g[:, None] * (norm >= 1e-8) * v / norm.clamp_min(1e-8)


def weight_norms(v: Sequence[Tensor], g: Sequence[Tensor], axes: Sequence[int]) -> list[Tensor]:
    """`g * v / |v|` for every index of the axis of each v; zero, and so its gradients, for a norm below 1e-8."""
    normalised = []
    for directions, gains, axis in zip(v, g, axes, strict=True):
        others = [i for i in range(directions.dim()) if i != axis]
        norm = torch.linalg.vector_norm(directions, dim=others, keepdim=True) if others else directions.abs()
        normalised.append(gains.view_as(norm) * (norm >= 1e-8) * directions / norm.clamp_min(1e-8))
    return normalised
