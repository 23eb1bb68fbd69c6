"""Weight normalisation in plain torch: a few passes over the weights, beside which a GPU has other work."""

import torch
from torch import Tensor

from vlae_fast.ops.arguments import operands
from vlae_fast.ops.weight_norm.rows import check, from_rows, rows

__all__ = ["weight_norm", "weight_norm_backward", "weight_norms", "weight_norms_backward"]


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


def _live_rows(t: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """[R, n], and that all of it is live."""
    flat = rows(t, axis)
    flat = flat.view(flat.shape[0], -1 if flat.numel() else 0)
    return flat, torch.full((len(flat),), flat.shape[1], device=flat.device)


def weight_norms(v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    """See `vlae_fast.reference.weight_norms`."""
    check(v, g, axes, None)
    results = []
    for directions, gains, axis in zip(v, g, axes, strict=True):
        flat, live = _live_rows(directions, axis)
        results.append(from_rows(weight_norm(flat, gains, live), directions, axis))
    return results


def weight_norms_backward(dw: list[Tensor], v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    """Gradients [*dv, *dg] of `weight_norms`."""
    check(v, g, axes, None, dw)
    dvs, dgs = [], []
    for upstream, directions, gains, axis in zip(dw, v, g, axes, strict=True):
        flat, live = _live_rows(directions, axis)
        dv, dg = weight_norm_backward(_live_rows(upstream, axis)[0], flat, gains, live)
        dvs.append(from_rows(dv, directions, axis))
        dgs.append(dg)
    return dvs + dgs
