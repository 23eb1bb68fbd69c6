"""MADE flows, mean only: our kernels, plain torch, and the libraries found here with the same weights."""

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import OURS, Call, Case, Contender, OnGpu, Size, Way, Work, agrees, compiled, gradients
from benchmarks.ops import made_accelerate
from benchmarks.ops import made_contenders as contenders
from benchmarks.ops.made_libraries import LIBRARIES, cyclic_degrees
from vlae_fast import MADEFlowParams, masks, ops

T = 4
BASE = {"N": 64, "latent": 64, "hidden": 640}
AXES = {"N": (1, 16, 64, 256, 1024), "latent": (16, 64, 256), "hidden": (160, 640, 2560)}


class Inputs(NamedTuple):
    """Random: latents of either side, parameters."""

    z: Tensor
    params: MADEFlowParams

    def double(self) -> "Inputs":
        return Inputs(self.z.double(), MADEFlowParams(*(p.double() for p in self.params[:6]), self.params.degrees))


def draw(N: int, latent: int, hidden: int) -> Inputs:
    D, M = latent, hidden

    def normal(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape) / fan**0.5

    params = MADEFlowParams(
        normal(T, M, D, fan=D), normal(T, M, fan=4), normal(T, M, M, fan=M), normal(T, M, fan=4),
        normal(T, D, M, fan=4 * M), normal(T, D, fan=4), cyclic_degrees(D, M).sort().values,
    )  # fmt: skip
    return Inputs(torch.randn(N, D), params)


def flow_work(N: int, degrees: Tensor, D: int, T: int) -> Work:
    """Either direction of a mean-only flow."""
    live = T * sum(int(mask.sum()) for mask in masks.made_masks(degrees, D, like=torch.ones(())))
    return Work(N * live, 4 * (2 * N * D + live))


def work(N: int, latent: int, hidden: int) -> Work:
    return flow_work(N, cyclic_degrees(latent, hidden).sort().values, latent, T)


def flow(make: Any, *options: Any) -> Contender:
    def prepare(inputs: Inputs) -> Call:
        run = make(inputs.params, *options)
        return lambda: run(inputs.z)

    return prepare


def library(name: str, direction: int) -> Contender:
    return flow(lambda params: LIBRARIES[name](params)[direction])


def density_way(make: Any) -> Way:
    """`make`: parameters -> density of latents and weights."""
    return lambda inputs: (make(inputs.params), [inputs.z, *inputs.params[:6]])


def ours(params: MADEFlowParams) -> Any:
    return lambda z, *weights: ops.made_flow_forward(z, MADEFlowParams(*weights, params.degrees))[0]


FOUND = tuple(name for name in LIBRARIES if find_spec(name))
INVERSE = {
    OURS: flow(lambda params: lambda eps: ops.made_flow_inverse(eps, params)),
    "torch incremental": flow(contenders.inverse_incremental),
    "torch naive": flow(contenders.inverse_naive),
    **{name: library(name, 1) for name in FOUND},
}
DENSITY = {
    OURS: flow(lambda params: torch.no_grad()(lambda z: ops.made_flow_forward(z, params)[0])),
    "torch folded": flow(contenders.density_folded),
    "torch folded, torch.compile": flow(contenders.density_folded, compiled),
    **{name: library(name, 0) for name in FOUND},
}
WAYS = {
    OURS: density_way(ours),
    "torch eager": density_way(contenders.density),
    "torch.compile": density_way(lambda params: compiled(contenders.density(params))),
}


def check_inverse(inputs: Inputs, z: Tensor) -> None:
    exact = inputs.double()
    again = contenders.density_folded(exact.params)(z.double())
    torch.testing.assert_close(again, exact.z, rtol=1e-4, atol=1e-4)


def is_base(size: Size) -> bool:
    return size == BASE | {"N": size["N"]}


def inverts_quickly(contender: str, size: Size) -> bool:
    return is_base(size) and (contender in (OURS, "torch incremental") or size["N"] <= 64)


def scores_quickly(contender: str, size: Size) -> bool:
    return is_base(size) and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 1024))


def on_gpu(*contenders: str, batches: tuple[int, ...] = (1, 64, 1024, 4096)) -> OnGpu:
    return OnGpu(tuple(BASE | {"N": N} for N in batches), contenders, ungraphed=("torch naive", *FOUND))


COMMON: dict[str, Any] = {"draw": draw, "base": BASE, "axes": AXES}
CASES = (
    Case(
        op="made_flow_inverse",
        contenders=INVERSE,
        work=work,
        check=check_inverse,
        quick=inverts_quickly,
        compared=(BASE | {"N": 1}, BASE),
        gpu=on_gpu("torch incremental", "torch naive", *FOUND),
        **COMMON,
    ),
    Case(
        op="made_flow_forward",
        contenders=DENSITY,
        work=work,
        check=agrees(lambda inputs: DENSITY["torch folded"](inputs.double()), 1e-4),
        quick=scores_quickly,
        compared=(BASE | {"N": 1}, BASE),
        gpu=on_gpu("torch folded", "torch folded, torch.compile", *FOUND),
        **COMMON,
    ),
    Case(
        op="made_flow_forward + gradients",
        contenders={name: gradients(way) for name, way in WAYS.items()},
        work=lambda **size: work(**size).with_gradients(),
        # a unit at 0 may be on in one and off in the other
        check=agrees(lambda inputs: gradients(WAYS["torch eager"])(inputs.double()), 1e-2),
        quick=lambda contender, size: is_base(size) and size["N"] == 1024 and contender != "torch.compile",
        compared=(BASE,),
        gpu=on_gpu("torch eager", batches=(1024, 4096)),
        **COMMON,
    ),
    *made_accelerate.CASES,
)
