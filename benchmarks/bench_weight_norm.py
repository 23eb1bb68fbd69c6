"""Weight normalisation of a MADE's masked weights, T=4 steps, one thread: our kernel and plain PyTorch.

`dense` is torch's own fused op, which knows no mask: a multiplication stands before it.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlae_fast import masks, ops, reference

D, M, T = 64, 640, 4
Norm = Callable[[Tensor, Tensor], Tensor]


def masked(v: Tensor, g: Tensor, mask: Tensor) -> Tensor:
    v = v * mask
    return g[:, None] * (v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-8))


CONTENDERS: dict[str, Callable[[Tensor, Tensor], Norm]] = {
    "native": lambda live, mask: lambda v, g: ops.weight_norm(v, g, live),
    "eager": lambda live, mask: lambda v, g: masked(v, g, mask),
    "compile": lambda live, mask: torch.compile(lambda v, g: masked(v, g, mask), dynamic=False),
    "dense": lambda live, mask: lambda v, g: torch._weight_norm(v * mask, g[:, None], 0),
}


@pytest.fixture(params=CONTENDERS)
def contender(request, benchmark) -> str:
    benchmark.extra_info["contender"] = request.param
    return request.param


def case(layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """v, g, live, mask of the first or second layer of T MADEs."""
    degrees = masks.made_degrees(D, M)
    live = masks.made_live(degrees, D)[layer].repeat(T)
    mask = masks.made_masks(degrees, D, like=torch.ones(()))[layer].repeat(T, 1)
    return torch.randn_like(mask).requires_grad_(), torch.rand(len(mask)).requires_grad_(), live, mask


@pytest.mark.parametrize("layer", [0, 1])
def test_forward(benchmark, contender: str, layer: int) -> None:
    v, g, live, mask = case(layer)
    benchmark.group = f"weight_norm forward {list(v.shape)}"
    with torch.no_grad():
        w = benchmark(CONTENDERS[contender](live, mask), v, g)
        torch.testing.assert_close(w, reference.weight_norm(v, g, live))


@pytest.mark.parametrize("layer", [0, 1])
def test_forward_and_backward(benchmark, contender: str, layer: int) -> None:
    v, g, live, mask = case(layer)
    benchmark.group = f"weight_norm forward + backward {list(v.shape)}"
    dw, norm = torch.randn_like(v), CONTENDERS[contender](live, mask)
    gradients = benchmark(lambda: torch.autograd.grad(norm(v, g), (v, g), dw))
    for actual, expected in zip(
        gradients, torch.autograd.grad(reference.weight_norm(v, g, live), (v, g), dw), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
