"""Weight normalisation of a MADE's masked weights, four steps at once: our kernel and plain torch."""

from collections.abc import Callable
from typing import Any

import torch
import work
from cases import Size, cases
from contenders_torch import compiled
from torch import Tensor

from vlae_fast import masks, ops, reference

D, M, T = 64, 640, 4
Norm = Callable[[Tensor, Tensor], Tensor]
BASE = {"rows": T * M, "entries": M}
AXES = {"entries": (D, M)}  # the first and the second layer


def masked(v: Tensor, g: Tensor, mask: Tensor) -> Tensor:
    v = v * mask
    return g[:, None] * (v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-8))


CONTENDERS: dict[str, Callable[[Tensor, Tensor], Norm]] = {
    "native": lambda live, mask: lambda v, g: ops.weight_norm(v, g, live),
    "torch eager": lambda live, mask: lambda v, g: masked(v, g, mask),
    "torch.compile": lambda live, mask: compiled(lambda v, g: masked(v, g, mask)),
    # torch's own fused op knows no mask: a multiplication stands before it
    "torch._weight_norm": lambda live, mask: lambda v, g: torch._weight_norm(v * mask, g[:, None], 0),
}


def case(size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """v, g, live, mask."""
    degrees, layer = masks.made_degrees(D, M), [D, M].index(size["entries"])
    live = masks.made_live(degrees, D)[layer].repeat(T)
    mask = masks.made_masks(degrees, D, like=torch.ones(()))[layer].repeat(T, 1)
    return torch.randn_like(mask).requires_grad_(), torch.rand(len(mask)).requires_grad_(), live, mask


@cases(CONTENDERS, BASE, AXES, quick=lambda contender, size: False)
def test_forward(race: Any, size: Size, contender: str) -> None:
    v, g, live, mask = case(size)
    ours, theirs = CONTENDERS["native"](live, mask), CONTENDERS[contender](live, mask)
    with torch.no_grad():
        w = race("weight_norm", size, contender, lambda: ours(v, g), lambda: theirs(v, g), work.weight_norm(live))
    torch.testing.assert_close(w, reference.weight_norm(v, g, live))


@cases(CONTENDERS, BASE, AXES, quick=lambda contender, size: size == BASE and contender != "torch.compile")
def test_forward_and_backward(race: Any, size: Size, contender: str) -> None:
    v, g, live, mask = case(size)
    ours, theirs = CONTENDERS["native"](live, mask), CONTENDERS[contender](live, mask)
    dw = torch.randn_like(v)

    def step(norm: Norm) -> tuple[Tensor, ...]:
        return torch.autograd.grad(norm(v, g), (v, g), dw)

    whole = work.with_gradients(work.weight_norm(live))
    gradients = race("weight_norm + gradients", size, contender, lambda: step(ours), lambda: step(theirs), whole)
    expected = torch.autograd.grad(reference.weight_norm(v, g, live), (v, g), dw)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
