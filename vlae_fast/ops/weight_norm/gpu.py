"""Weight normalisation in plain torch: a few passes over the weights, beside which a GPU has other work."""

import torch
from torch import Tensor

from vlae_fast.ops.arguments import operands

__all__ = ["weight_norm", "weight_norm_backward"]


def _directions(v: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of the rows' first `live` entries, and 1 / norm [R, 1]; both 0 for a norm below 1e-8."""
    v = v.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    inverse = (norm >= 1e-8) / norm.clamp_min(1e-8)
    return v * inverse, inverse


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `vlae_fast.reference.weight_norm`."""
    operands("weight_norm", None, v=v, g=g, live=live)
    return g[:, None] * _directions(v, live)[0]


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    operands("weight_norm", None, v=v, g=g, live=live, dw=dw)
    unit, inverse = _directions(v, live)
    dw = dw.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    dg = (dw * unit).sum(1)
    return g[:, None] * inverse * (dw - dg[:, None] * unit), dg
