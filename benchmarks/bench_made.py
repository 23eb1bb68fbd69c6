"""MADE flows, D=64, M=640, T=4, mean only, one thread: our kernels, plain PyTorch, and the libraries found here.

The libraries' flows also learn scales: 8 % more multiply-adds.
"""

from collections.abc import Callable
from importlib.util import find_spec

import contenders_made as contenders
import pytest
import torch
from torch import Tensor

from vlae_fast import masks, native
from vlae_fast.reference import MADEFlowParams

D, M, T = 64, 640, 4
LIBRARIES = {"nflows": contenders.nflows_flow, "zuko": contenders.zuko_flow}


@pytest.fixture
def params() -> MADEFlowParams:
    def draw(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape) / fan**0.5

    return MADEFlowParams(
        draw(T, M, D, fan=D), torch.zeros(T, M), draw(T, M, M, fan=M), torch.zeros(T, M),
        draw(T, D, M, fan=4 * M), torch.zeros(T, D), masks.made_degrees(D, M),
    )  # fmt: skip


def library(name: str, direction: int) -> Callable[[Tensor], Tensor]:
    if not find_spec(name):
        pytest.skip(f"{name} is not installed")
    return LIBRARIES[name](D, M, T)[direction]


def run(benchmark, group: str, contender: str, call: Callable[[Tensor], object], argument: Tensor) -> object:
    benchmark.group, benchmark.extra_info["contender"] = group, contender
    return benchmark(call, argument)


@pytest.mark.parametrize("contender", ["native", "incremental", "naive", *LIBRARIES])
@pytest.mark.parametrize("N", [1, 16, 64, 256])
def test_inverse(benchmark, params: MADEFlowParams, N: int, contender: str) -> None:
    calls = {
        "native": lambda: lambda eps: native.made_flow_inverse(eps, list(params), None),
        "incremental": lambda: contenders.inverse_incremental(params),
        "naive": lambda: contenders.inverse_naive(params),
    }
    call = library(contender, 1) if contender in LIBRARIES else calls[contender]()
    eps = torch.randn(N, D)
    z = run(benchmark, f"made_flow_inverse N={N}", contender, call, eps)
    if contender not in LIBRARIES:
        torch.testing.assert_close(contenders.density_folded(params)(z), eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contender", ["native", "folded", *LIBRARIES])
@pytest.mark.parametrize("N", [1, 64, 1024])
def test_density(benchmark, params: MADEFlowParams, N: int, contender: str) -> None:
    calls = {
        "native": lambda: lambda z: native.made_flow_forward(z, list(params), None)[0],
        "folded": lambda: contenders.density_folded(params),
    }
    call = library(contender, 0) if contender in LIBRARIES else calls[contender]()
    z = torch.randn(N, D)
    eps = run(benchmark, f"made_flow_forward N={N}", contender, call, z)
    if contender not in LIBRARIES:
        torch.testing.assert_close(eps, contenders.density_folded(params)(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contender", ["native", "autograd"])
@pytest.mark.parametrize("N", [64, 1024])
def test_density_and_gradients(benchmark, params: MADEFlowParams, N: int, contender: str) -> None:
    def compiled(z: Tensor) -> list[Tensor]:
        eps, log_det = native.made_flow_forward(z, list(params), None)
        deps, dlog_det = torch.ones_like(eps), torch.zeros_like(log_det)
        dz, _, *dparams = native.made_flow_forward_backward(deps, dlog_det, z, list(params), None)
        return [dz, *dparams]

    autograd = contenders.density_and_gradients(params)
    z = torch.randn(N, D)
    gradients = run(
        benchmark, f"made_flow forward + backward N={N}", contender, compiled if contender == "native" else autograd, z
    )
    for actual, expected in zip(gradients, autograd(z), strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm()  # a unit at 0 may be on in one and off in the other
