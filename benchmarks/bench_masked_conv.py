"""One masked 3x3 convolution with ELU, gain and residual fused, against plain PyTorch on one thread.

The torch contenders run the op's meaning (`reference.masked_conv3x3`) in float32, eagerly and compiled, with contiguous
and with channels-last activations: compare with the best of them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlae_fast import ops, reference

Convolution = Callable[..., Tensor]
FUSED = {"mask": "B", "pre_elu": True, "residual_scale": 0.5}


def channels_last(convolution: Convolution) -> Convolution:
    def run(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
        return convolution(x, weight, bias, gain, residual)

    return run


def plain(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    return reference.masked_conv3x3(x, weight, bias, gain=gain, residual=residual, **FUSED)


def native(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    return ops.masked_conv3x3(x, weight, bias, gain=gain, residual=residual, **FUSED)


CONTENDERS: dict[str, Callable[[], Convolution]] = {
    "native": lambda: native,
    "eager": lambda: plain,
    "compile": lambda: torch.compile(plain, dynamic=False),
    "compile channels-last": lambda: torch.compile(channels_last(plain), dynamic=False),
}


def tensors(N: int, C: int) -> list[Tensor]:
    shapes = ((N, C, 28, 28), (C, C, 3, 3), (C,), (C,), (N, C, 28, 28))
    return [torch.randn(shape).requires_grad_() for shape in shapes]


@pytest.fixture(params=CONTENDERS)
def convolution(request, benchmark) -> Convolution:
    benchmark.extra_info["contender"] = request.param
    return CONTENDERS[request.param]()


@pytest.mark.parametrize(("N", "C"), [(64, 12), (64, 32)])
def test_forward(benchmark, convolution, N, C):
    benchmark.group = f"masked_conv3x3 forward C={C} N={N}"
    arguments = tensors(N, C)
    with torch.inference_mode():
        y = benchmark.pedantic(convolution, arguments, rounds=50, warmup_rounds=3)
        torch.testing.assert_close(y, plain(*arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("N", "C"), [(64, 12), (64, 32)])
def test_forward_and_backward(benchmark, convolution, N, C):
    benchmark.group = f"masked_conv3x3 forward + backward C={C} N={N}"
    arguments = tensors(N, C)
    dy = torch.randn(N, C, 28, 28)

    def step(convolution: Convolution) -> tuple[Tensor, ...]:
        return torch.autograd.grad(convolution(*arguments), arguments, dy)

    gradients = benchmark.pedantic(step, (convolution,), rounds=30, warmup_rounds=3)
    for actual, expected in zip(gradients, step(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
