"""Mean-only MADE flows as plain PyTorch runs them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import MADEFlowParams, masks

Flow = Callable[[Tensor], Tensor]
Layers = tuple[tuple[Tensor, Tensor], ...]
"""(weight [in, out] with the mask folded in, bias) of the three layers of a step."""


def folded(params: MADEFlowParams) -> list[Layers]:
    """Masks are multiplied into the weights once, outside the clock."""
    p, D = params, params.weight1.shape[2]
    pairs = zip(masks.made_masks(p.degrees, D, like=p.weight1), (p.weight1, p.weight2, p.weight3), strict=True)
    weights = [(weight * mask).transpose(1, 2).contiguous() for mask, weight in pairs]
    biases = (p.bias1, p.bias2, p.bias3)
    return [
        tuple((w[t].clone(), b[t].clone()) for w, b in zip(weights, biases, strict=True)) for t in range(len(p.bias1))
    ]


def mean(layers: Layers, y: Tensor) -> Tensor:
    (w1, b1), (w2, b2), (w3, b3) = layers
    h = torch.addmm(b1, y, w1).relu_()
    h = torch.addmm(b2, h, w2).relu_()
    return torch.addmm(b3, h, w3)


def density_folded(params: MADEFlowParams, way: Callable[[Flow], Flow] = lambda run: run) -> Flow:
    """One pass a step; `way` is how torch runs it."""
    steps = folded(params)

    def run(z: Tensor) -> Tensor:
        for layers in steps:
            z = (z - mean(layers, z)).flip(1)
        return z

    return torch.inference_mode()(way(run))


def inverse_naive(params: MADEFlowParams) -> Flow:
    """D whole passes a step, the masks folded in."""
    steps = folded(params)

    @torch.inference_mode()
    def run(eps: Tensor) -> Tensor:
        y = eps
        for layers in reversed(steps):
            x, y = y.flip(1), torch.zeros_like(eps)
            for j in range(eps.shape[1]):
                y[:, j] = x[:, j] + mean(layers, y)[:, j]
        return y

    return run


def inverse_incremental(params: MADEFlowParams) -> Flow:
    """Only the hidden units that become computable with each new dimension."""
    steps, M = folded(params), params.bias1.shape[1]
    D = params.weight1.shape[2]
    end = [0, *torch.bincount(params.degrees, minlength=D).cumsum(0).tolist()]

    @torch.inference_mode()
    def run(eps: Tensor) -> Tensor:
        N = len(eps)
        y = eps
        for (w1, b1), (w2, b2), (w3, b3) in reversed(steps):
            x, y = y.flip(1), eps.new_empty(N, D)
            h1, h2 = eps.new_empty(N, M), eps.new_empty(N, M)
            for j in range(D):
                known = end[j]
                torch.addmm(x[:, j : j + 1], h2[:, :known], w3[:known, j : j + 1], out=y[:, j : j + 1])
                y[:, j : j + 1] += b3[j]
                a, e = known, end[j + 1]
                if a < e and j + 1 < D:
                    h1[:, a:e] = torch.addmm(b1[a:e], y[:, : j + 1], w1[: j + 1, a:e]).relu_()
                    h2[:, a:e] = torch.addmm(b2[a:e], h1[:, :e], w2[:e, a:e]).relu_()
        return y

    return run


def density(params: MADEFlowParams) -> Callable[..., Tensor]:
    """For autograd: a function of latents and weights."""
    first, second, third = masks.made_masks(params.degrees, params.weight1.shape[2], like=params.weight1)

    def run(z: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
        y = z
        for t in range(len(b1)):
            h = F.relu(F.linear(y, w1[t] * first, b1[t]))
            h = F.relu(F.linear(h, w2[t] * second, b2[t]))
            y = (y - F.linear(h, w3[t] * third, b3[t])).flip(1)
        return y

    return run
