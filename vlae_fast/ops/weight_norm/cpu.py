"""CPU bodies of `weight_norm` and `weight_norms`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands
from vlae_fast.ops.weight_norm.rows import check, from_rows, rows

__all__ = ["weight_norm", "weight_norm_backward", "weight_norms", "weight_norms_backward"]

_CPU = torch.device("cpu")


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `vlae_fast.reference.weight_norm`."""
    R, n = operands("weight_norm", _CPU, v=v, g=g, live=live).values()
    values.within("live", live, f"values in 0..{n}", 0, n)
    w = torch.empty_like(v)
    _native.weight_norm(R, n, *addresses(v, g, live), torch.get_num_threads(), w.data_ptr())
    return w


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    R, n = operands("weight_norm", _CPU, v=v, g=g, live=live, dw=dw).values()
    values.within("live", live, f"values in 0..{n}", 0, n)
    dv, dg = torch.empty_like(v), torch.empty_like(g)
    _native.weight_norm_backward(R, n, *addresses(dw, v, g, live), torch.get_num_threads(), *addresses(dv, dg))
    return dv, dg


_ALL_LIVE = 0


def weight_norms(v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    """See `vlae_fast.reference.weight_norms`."""
    check(v, g, axes, _CPU)
    threads, results = torch.get_num_threads(), []
    for directions, gains, axis in zip(v, g, axes, strict=True):
        flat, R, n = _rows(directions, axis)
        w = torch.empty_like(flat)
        _native.weight_norm(R, n, *addresses(flat, gains), _ALL_LIVE, threads, w.data_ptr())
        results.append(from_rows(w, directions, axis))
    return results


def weight_norms_backward(dw: list[Tensor], v: list[Tensor], g: list[Tensor], axes: list[int]) -> list[Tensor]:
    """Gradients [*dv, *dg] of `weight_norms`."""
    check(v, g, axes, _CPU, dw)
    threads, dvs, dgs = torch.get_num_threads(), [], []
    for upstream, directions, gains, axis in zip(dw, v, g, axes, strict=True):
        flat, R, n = _rows(directions, axis)
        up = rows(upstream, axis)
        dv, dg = torch.empty_like(flat), torch.empty_like(gains)
        _native.weight_norm_backward(R, n, *addresses(up, flat, gains), _ALL_LIVE, threads, *addresses(dv, dg))
        dvs.append(from_rows(dv, directions, axis))
        dgs.append(dg)
    return dvs + dgs


def _rows(v: Tensor, axis: int) -> tuple[Tensor, int, int]:
    """v with its rows behind one another, their number and length."""
    R = v.shape[axis]
    return rows(v, axis), R, v.numel() // max(R, 1)
