"""The same MADE flow in the libraries that people use: nflows, normflows and zuko, with our weights in them.

They learn a scale beside the mean, 8 % more multiply-adds at the paper's sizes; here it is held at 1, so that their
results equal ours. Each function gives (density, inverse).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from vlae_fast import MADEFlowParams

Flow = Callable[[Tensor], Tensor]
Flows = tuple[Flow, Flow]


def cyclic_degrees(D: int, M: int) -> Tensor:
    """Degrees of the libraries' hidden units: 0..D-2 again and again, int64 [M]. Sorted, they are ours."""
    return torch.arange(M) % (D - 1)


@torch.no_grad()
def _load(
    linears: Iterable[nn.Linear],
    params: MADEFlowParams,
    step: int,
    mean_first: bool,
    unit_scale: float,
    descending: bool = False,
) -> None:
    """Puts the weights of a step into the three masked layers; their outputs alternate between mean and scale."""
    D, M = params.weight1.shape[2], params.weight1.shape[1]
    place = cyclic_degrees(D, M).argsort(stable=True)  # of our hidden units among theirs
    w1, b1, w2, b2, w3, b3 = (p[step] for p in params[:6])
    if descending:  # their variables stand in the other order
        w1, w3, b3 = w1.flip(1), w3.flip(0), b3.flip(0)
    first, second, third = linears
    first.weight[place], first.bias[place] = w1, b1
    second.weight[place[:, None], place], second.bias[place] = w2, b2
    third.weight.zero_()
    mean, scale = (0, 1) if mean_first else (1, 0)
    third.weight[mean::2, place], third.bias[mean::2] = -w3, -b3  # they add the mean
    third.bias[scale::2] = unit_scale


def nflows_flow(params: MADEFlowParams) -> Flows:
    from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

    T, M, D = params.weight1.shape
    parts: list[nn.Module] = []
    for step in range(T):
        part = MaskedAffineAutoregressiveTransform(D, M, num_blocks=1, use_residual_blocks=False)
        made = part.autoregressive_net
        linears = made.initial_layer, made.blocks[0].linear, made.final_layer
        _load(linears, params, step, mean_first=False, unit_scale=math.log(math.expm1(1 - 1e-3)))
        parts += [part, ReversePermutation(D)]
    flow = CompositeTransform(parts).eval()
    return torch.inference_mode()(lambda z: flow(z)[0]), torch.inference_mode()(lambda eps: flow.inverse(eps)[0])


def normflows_flow(params: MADEFlowParams) -> Flows:
    from normflows.flows import MaskedAffineAutoregressive

    T, M, D = params.weight1.shape
    parts = []
    for step in range(T):
        part = MaskedAffineAutoregressive(D, M, num_blocks=1, use_residual_blocks=False).eval()
        made = part.autoregressive_net
        linears = made.initial_layer, made.blocks[0].linear, made.final_layer
        _load(linears, params, step, mean_first=False, unit_scale=math.log(0.999 / 0.001) - 2)
        made.initial_layer = nn.Sequential(made.initial_layer, nn.ReLU())  # which this library leaves out
        parts.append(part)

    @torch.inference_mode()
    def density(z: Tensor) -> Tensor:
        for part in parts:
            z = part(z)[0].flip(1)
        return z

    @torch.inference_mode()
    def inverse(eps: Tensor) -> Tensor:
        for part in reversed(parts):
            eps = part.inverse(eps.flip(1))[0]
        return eps

    return density, inverse


def zuko_flow(params: MADEFlowParams) -> Flows:
    """Its steps read the variables in turn upwards and downwards, which is our reversal between steps."""
    import zuko

    T, M, D = params.weight1.shape
    flow = zuko.flows.MAF(features=D, transforms=T, hidden_features=(M, M)).eval()
    for step, part in enumerate(flow.transform.transforms):
        linears = (layer for layer in part.hyper if isinstance(layer, nn.Linear))
        _load(linears, params, step, mean_first=True, unit_scale=0.0, descending=step % 2 == 1)
    last = (lambda t: t.flip(1)) if T % 2 else (lambda t: t)
    return (
        torch.inference_mode()(lambda z: last(flow().transform.call_and_ladj(z)[0])),
        torch.inference_mode()(lambda eps: flow().transform.inv(last(eps))),
    )


LIBRARIES: dict[str, Callable[[MADEFlowParams], Flows]] = {
    "nflows": nflows_flow,
    "normflows": normflows_flow,
    "zuko": zuko_flow,
}
