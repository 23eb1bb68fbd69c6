"""Mean-only MADE flows as plain PyTorch and the known libraries run them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.reference import MADEFlowParams

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


def density_folded(params: MADEFlowParams) -> Flow:
    steps = folded(params)

    @torch.inference_mode()
    def run(z: Tensor) -> Tensor:
        for layers in steps:
            z = (z - mean(layers, z)).flip(1)
        return z

    return run


def inverse_naive(params: MADEFlowParams) -> Flow:
    """D whole passes a step."""
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


def density_and_gradients(params: MADEFlowParams) -> Callable[[Tensor], list[Tensor]]:
    """Forward and backward by autograd; gradients of the sum of the result, z first, then the parameters."""
    first, second, third = masks.made_masks(params.degrees, params.weight1.shape[2], like=params.weight1)
    leaves = [p.clone().requires_grad_() for p in params[:6]]
    w1, b1, w2, b2, w3, b3 = leaves

    def run(z: Tensor) -> list[Tensor]:
        z = z.clone().requires_grad_()
        y = z
        for t in range(len(b1)):
            h = F.relu(F.linear(y, w1[t] * first, b1[t]))
            h = F.relu(F.linear(h, w2[t] * second, b2[t]))
            y = (y - F.linear(h, w3[t] * third, b3[t])).flip(1)
        return list(torch.autograd.grad(y.sum(), [z, *leaves]))

    return run


def nflows_flow(D: int, M: int, T: int) -> tuple[Flow, Flow]:
    """(density, inverse) of a flow of the same size with weights of its own; it learns scales too."""
    from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

    flow = CompositeTransform([
        part
        for _ in range(T)
        for part in (
            MaskedAffineAutoregressiveTransform(D, M, num_blocks=1, use_residual_blocks=False),
            ReversePermutation(D),
        )
    ]).eval()  # fmt: skip
    return torch.inference_mode()(lambda z: flow(z)[0]), torch.inference_mode()(lambda eps: flow.inverse(eps)[0])


def zuko_flow(D: int, M: int, T: int) -> tuple[Flow, Flow]:
    """See `nflows_flow`."""
    import zuko

    flow = zuko.flows.MAF(features=D, transforms=T, hidden_features=(M, M)).eval()
    return (
        torch.inference_mode()(lambda z: flow().transform.call_and_ladj(z)[0]),
        torch.inference_mode()(lambda eps: flow().transform.inv(eps)),
    )
