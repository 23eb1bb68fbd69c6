"""Layers of any shape as rows, and the checks before a body of `weight_norms` reads them."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check", "from_rows", "rows"]


def check(
    v: Sequence[Tensor],
    g: Sequence[Tensor],
    axes: Sequence[int],
    device: torch.device | None,
    dw: Sequence[Tensor] = (),
) -> None:
    """Makes sure that no body can leave its memory. Raises TypeError or ValueError.

    `device` None: that of the first tensor. dw: gradients of the results, where there are any.
    """
    if not len(v) == len(g) == len(axes) == len(dw or v):
        raise ValueError(f"v, g, axes, dw: as many of each wanted, got {len(v)}, {len(g)}, {len(axes)} and {len(dw)}")
    for i, axis in enumerate(axes):
        device = _checked(f"v[{i}]", v[i], None, device).device
        if not 0 <= axis < v[i].dim():
            raise ValueError(f"axes[{i}]: an axis of v[{i}] wanted, got {axis}")
        _checked(f"g[{i}]", g[i], v[i].shape[axis : axis + 1], device)
        if dw:
            _checked(f"dw[{i}]", dw[i], v[i].shape, device)


def _checked(name: str, t: Tensor, shape: torch.Size | None, device: torch.device | None) -> Tensor:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: a tensor wanted, got {type(t).__name__}")
    if not (
        t.dtype == torch.float32
        and t.shape == (t.shape if shape is None else shape)
        and t.device == (device or t.device)
        and t.layout == torch.strided
        and t.is_contiguous()
    ):
        raise ValueError(
            f"{name}: a contiguous float32 tensor of shape {list(t.shape if shape is None else shape)} on "
            f"{device or t.device} wanted, got {t.dtype} {list(t.shape)} on {t.device}"
        )
    return t


def rows(t: Tensor, axis: int) -> Tensor:
    """With the axis in front, contiguous: what one of its indices holds is a row."""
    return t if axis == 0 else t.transpose(0, axis).contiguous()


def from_rows(flat: Tensor, like: Tensor, axis: int) -> Tensor:
    """The inverse of `rows`; a shape of rows will do."""
    return flat.view_as(like) if axis == 0 else flat.view(like.transpose(0, axis).shape).transpose(0, axis).contiguous()
