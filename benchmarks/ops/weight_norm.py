"""Weight normalisation of a MADE's masked weights, four steps at once: our kernel and plain torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import OURS, Case, OnGpu, Way, Work, agrees, compiled, forward, gradients
from vlae_fast import masks, ops, reference

D, M, T = 64, 640, 4
BASE = {"rows": T * M, "entries": M}


class Inputs(NamedTuple):
    """Random, but for the rows' live entries."""

    v: Tensor
    g: Tensor
    live: Tensor
    mask: Tensor


def layer_of(entries: int) -> tuple[Tensor, Tensor]:
    """live and mask of the first layer (D entries) or the second (M)."""
    degrees, layer = masks.made_degrees(D, M), [D, M].index(entries)
    mask = masks.made_masks(degrees, D, like=torch.ones(()))[layer].repeat(T, 1)
    return masks.made_live(degrees, D)[layer].repeat(T), mask


def draw(rows: int, entries: int) -> Inputs:
    live, mask = layer_of(entries)
    return Inputs(torch.randn(rows, entries), torch.rand(rows), live, mask)


def work(rows: int, entries: int) -> Work:
    """Squares, their sum and the scaling; live entries are read and written."""
    live = float(layer_of(entries)[0].sum())
    return Work(2 * live, 8 * live)


def masked(v: Tensor, g: Tensor, mask: Tensor) -> Tensor:
    v = v * mask
    return g[:, None] * (v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-8))


def way(make: Callable[[Inputs], Callable[[Tensor, Tensor], Tensor]]) -> Way:
    return lambda inputs: (make(inputs), [inputs.v, inputs.g])


WAYS = {
    OURS: way(lambda i: lambda v, g: ops.weight_norm(v, g, i.live)),
    "torch eager": way(lambda i: lambda v, g: masked(v, g, i.mask)),
    "torch.compile": way(lambda i: compiled(lambda v, g: masked(v, g, i.mask))),
    # torch's own fused op knows no mask: a multiplication stands before it
    "torch._weight_norm": way(lambda i: lambda v, g: torch._weight_norm(v * i.mask, g[:, None], 0)),
}
EXACT = way(lambda i: lambda v, g: reference.weight_norm(v, g, i.live))

COMMON: dict[str, Any] = {
    "draw": draw,
    "base": BASE,
    "axes": {"entries": (D, M)},
    "compared": (BASE,),
    "gpu": OnGpu((BASE,), ("torch eager", "torch.compile")),
}
CASES = (
    Case(
        op="weight_norm",
        contenders={name: forward(way) for name, way in WAYS.items()},
        work=work,
        check=agrees(forward(EXACT), 1e-5),
        quick=lambda contender, size: False,
        **COMMON,
    ),
    Case(
        op="weight_norm + gradients",
        contenders={name: gradients(way) for name, way in WAYS.items()},
        work=lambda **size: work(**size).with_gradients(),
        check=agrees(gradients(EXACT), 1e-4),
        quick=lambda contender, size: size == BASE and contender != "torch.compile",
        **COMMON,
    ),
)
