"""Every mask of the package: causal taps, visible pixels, MADE degrees."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlae_fast.checks import choice

__all__ = [
    "causal3x3",
    "made_degrees",
    "made_layer",
    "made_live",
    "made_masks",
    "made_weights",
    "masked",
    "taps3x3",
    "visible_pixels",
]


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """The weight where the mask is 1, else 0, whatever stands there (NaN too), with a gradient of 0."""
    return weight.masked_fill(mask == 0, 0.0)


def causal3x3(mask: str, like: Tensor) -> Tensor:
    """Raster-causal taps of a 3x3 filter (van den Oord et al. 2016, arXiv:1601.06759, sec. 3.4), [3, 3].

    ::

        1 1 1        1 1 1
        1 0 0   A    1 1 0   B        ones in the dtype and on the device of `like`
        0 0 0        0 0 0
    """
    return (torch.arange(9, device=like.device) < taps3x3(mask)).to(like.dtype).view(3, 3)


def taps3x3(mask: str) -> int:
    """How many taps a mask leaves, the first ones in raster order. Raises ValueError for no mask."""
    return {"A": 4, "B": 5}[choice("mask", mask, ("A", "B"))]


def visible_pixels(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """1 where both the row and the column are multiples of `stride`, else 0: [H, W] (the paper's sec. 3.1)."""
    rows = torch.arange(height, device=like.device) % stride == 0
    columns = torch.arange(width, device=like.device) % stride == 0
    return (rows[:, None] & columns[None, :]).to(like.dtype)


def made_degrees(latent_size: int, hidden_size: int) -> Tensor:
    """Degrees of our own models' hidden units: `degrees[h] = h * D // M`, int64 [M], sorted."""
    return torch.arange(hidden_size) * latent_size // hidden_size


def made_masks(degrees: Tensor, latent_size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of the three weight matrices of a MADE (Germain et al. 2015, arXiv:1502.03509, eq. 13-15).

    A hidden unit of degree d sees inputs `<= d` and hidden units of degree `<= d`; output j sees units of degree
    `< j`. Returns [M, D], [M, M] and [D, M] in the dtype and on the device of `like`.
    """
    degrees = degrees.to(like.device)
    inputs = torch.arange(latent_size, device=like.device)
    first = degrees[:, None] >= inputs[None, :]
    second = degrees[:, None] >= degrees[None, :]
    third = inputs[:, None] > degrees[None, :]
    return first.to(like.dtype), second.to(like.dtype), third.to(like.dtype)


def made_layer(degrees: Tensor, seen: Tensor) -> Tensor:
    """1 where a unit of one of the `degrees` [rows] sees what counts as of degree `seen` [columns]: [rows, columns]."""
    return (degrees[:, None] >= seen[None, :]).to(torch.int8)


def made_weights(params: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The three weights [T, ., .] of MADEFlowParams with 0 in place of the connections that the degrees forbid."""
    weight1, _, weight2, _, weight3, _, degrees = params
    latent_size = weight1.shape[2]
    first, second, third = made_masks(degrees, latent_size, like=weight1)
    third = third.repeat(2 if weight3.shape[1] > latent_size else 1, 1)
    return masked(weight1, first), masked(weight2, second), masked(weight3, third)


def made_live(degrees: Tensor, latent_size: int) -> list[Tensor]:
    """How many leading entries of each row `made_masks` leaves, as sorted degrees make masks of prefixes: int64."""
    return [mask.sum(1) for mask in made_masks(degrees, latent_size, like=degrees)]
