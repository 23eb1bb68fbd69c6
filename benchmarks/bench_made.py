"""MADE flows, mean only: our kernels, plain torch, and the libraries found here with the same weights."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import contenders_made as contenders
import pytest
import torch
import work
from cases import Size, cases
from contenders_flows import LIBRARIES, cyclic_degrees
from contenders_torch import compiled
from torch import Tensor

from vlae_fast import ops
from vlae_fast.reference import MADEFlowParams

Call = Callable[[Tensor], Any]
Contenders = dict[str, Callable[[MADEFlowParams], Call]]
BASE = {"N": 64, "latent": 64, "hidden": 640}
AXES = {"N": (1, 16, 64, 256, 1024), "latent": (16, 64, 256), "hidden": (160, 640, 2560)}
T = 4


def draw(D: int, M: int) -> MADEFlowParams:
    def normal(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape) / fan**0.5

    return MADEFlowParams(
        normal(T, M, D, fan=D), normal(T, M, fan=4), normal(T, M, M, fan=M), normal(T, M, fan=4),
        normal(T, D, M, fan=4 * M), normal(T, D, fan=4), cyclic_degrees(D, M).sort().values,
    )  # fmt: skip


def library(name: str, direction: int) -> Callable[[MADEFlowParams], Call]:
    def make(params: MADEFlowParams) -> Call:
        if not find_spec(name):
            pytest.skip(f"{name} is not installed")
        return LIBRARIES[name](params)[direction]

    return make


def native_gradients(params: MADEFlowParams) -> Call:
    leaves = [p.clone().requires_grad_() for p in params[:6]]
    flow = MADEFlowParams(*leaves, params.degrees)

    def run(z: Tensor) -> list[Tensor]:
        z = z.clone().requires_grad_()
        return list(torch.autograd.grad(ops.made_flow_forward(z, flow)[0].sum(), [z, *leaves]))

    return run


INVERSE: Contenders = {
    "native": lambda params: lambda eps: ops.made_flow_inverse(eps, params),
    "torch incremental": contenders.inverse_incremental,
    "torch naive": contenders.inverse_naive,
    **{name: library(name, 1) for name in LIBRARIES},
}
DENSITY: Contenders = {
    "native": lambda params: lambda z: ops.made_flow_forward(z, params)[0],
    "torch folded": contenders.density_folded,
    "torch folded, torch.compile": lambda params: contenders.density_folded(params, compiled),
    **{name: library(name, 0) for name in LIBRARIES},
}
GRADIENTS: Contenders = {
    "native": native_gradients,
    "torch eager": contenders.density_and_gradients,
    "torch.compile": lambda params: contenders.density_and_gradients(params, compiled),
}


def exact(params: MADEFlowParams) -> MADEFlowParams:
    return MADEFlowParams(*(p.double() for p in params[:6]), params.degrees)


def needed(size: Size, params: MADEFlowParams) -> work.Work:
    return work.made(size["N"], params.degrees, size["latent"], T)


def is_base(size: Size) -> bool:
    return size == BASE | {"N": size["N"]}


def quick_inverse(contender: str, size: Size) -> bool:
    return is_base(size) and (contender in ("native", "torch incremental") or size["N"] <= 64)


@cases(INVERSE, BASE, AXES, quick_inverse)
def test_inverse(race: Any, size: Size, contender: str) -> None:
    params, eps = draw(size["latent"], size["hidden"]), torch.randn(size["N"], size["latent"])
    ours, theirs = INVERSE["native"](params), INVERSE[contender](params)
    z = race("made_flow_inverse", size, contender, lambda: ours(eps), lambda: theirs(eps), needed(size, params))
    again = contenders.density_folded(exact(params))(z.double())
    torch.testing.assert_close(again, eps.double(), rtol=1e-4, atol=1e-4)


def quick_density(contender: str, size: Size) -> bool:
    return is_base(size) and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 1024))


@cases(DENSITY, BASE, AXES, quick_density)
def test_density(race: Any, size: Size, contender: str) -> None:
    params, z = draw(size["latent"], size["hidden"]), torch.randn(size["N"], size["latent"])
    ours, theirs = DENSITY["native"](params), DENSITY[contender](params)
    eps = race("made_flow_forward", size, contender, lambda: ours(z), lambda: theirs(z), needed(size, params))
    expected = contenders.density_folded(exact(params))(z.double())
    torch.testing.assert_close(eps.double(), expected, rtol=1e-4, atol=1e-4)


def quick_gradients(contender: str, size: Size) -> bool:
    return is_base(size) and size["N"] == 1024 and contender != "torch.compile"


@cases(GRADIENTS, BASE, AXES, quick_gradients)
def test_density_and_gradients(race: Any, size: Size, contender: str) -> None:
    params, z = draw(size["latent"], size["hidden"]), torch.randn(size["N"], size["latent"])
    ours, theirs = GRADIENTS["native"](params), GRADIENTS[contender](params)
    whole = work.with_gradients(needed(size, params))
    gradients = race("made_flow_forward + gradients", size, contender, lambda: ours(z), lambda: theirs(z), whole)
    for actual, expected in zip(gradients, contenders.density_and_gradients(exact(params))(z.double()), strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm()  # a unit at 0 may be on in one and off in the other
