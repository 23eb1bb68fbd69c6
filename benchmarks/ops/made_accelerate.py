"""`vlae_fast.accelerate`: the slow side of whole flows of other libraries, at their defaults, with and without it."""

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vlae_fast
from benchmarks.case import OURS, Call, Case, Contender, Work, agrees

BASE = {"N": 256, "latent": 64}
AXES = {"N": (1, 256), "latent": (8, 64)}
MASKED = "MaskedLinear"


class Inputs(NamedTuple):
    """One flow twice, and what it draws from."""

    fast: nn.Module
    plain: nn.Module
    noise: Tensor


def nflows(latent: int) -> nn.Module:
    from nflows.flows.autoregressive import MaskedAutoregressiveFlow

    return MaskedAutoregressiveFlow(latent, 64, num_layers=5, num_blocks_per_layer=2)


def zuko(latent: int) -> nn.Module:
    from zuko.flows import MAF

    return MAF(latent)


MAKE: dict[str, Callable[[int], nn.Module]] = {"nflows": nflows, "zuko": zuko}


def inverse(library: str, flow: Any, noise: Tensor) -> Tensor:
    result: Tensor = flow._transform.inverse(noise)[0] if library == "nflows" else flow().transform.inv(noise)
    return result


def draw(library: str, N: int, latent: int) -> Inputs:
    plain = MAKE[library](latent).eval()
    with torch.no_grad():
        for part in plain.modules():  # as new, five steps of nflows in 64 dimensions overflow
            if isinstance(part, nn.Linear) and part.out_features == 2 * latent:
                part.weight.mul_(0.1)
    return Inputs(vlae_fast.accelerate(copy.deepcopy(plain)), plain, torch.randn(N, latent))


def work(library: str, N: int, latent: int) -> Work:
    flow = MAKE[library](latent)
    masked: list[Any] = [part for part in flow.modules() if type(part).__name__ == MASKED]
    live = sum(int(part.mask.count_nonzero()) for part in masked)
    return Work(N * live, 4 * (2 * N * latent + live))


def contender(library: str, which: str) -> Contender:
    def prepare(inputs: Inputs) -> Call:
        flow = getattr(inputs, which)
        return torch.no_grad()(lambda: inverse(library, flow, inputs.noise))

    return prepare


def case(library: str) -> Case:
    return Case(
        op=f"accelerate({library} MAF), sampling",
        draw=partial(draw, library),
        contenders={OURS: contender(library, "fast"), library: contender(library, "plain")},
        work=partial(work, library),
        check=agrees(contender(library, "plain"), 1e-4),
        base=BASE,
        axes=AXES,
        quick=lambda contender, size: True,
        compared=(BASE,),
    )


CASES = tuple(case(library) for library in MAKE if find_spec(library))
