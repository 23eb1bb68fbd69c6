"""One masked 3x3 convolution with ELU, gain and residual fused, against plain torch.

The torch contenders run the op's meaning (`reference.masked_conv3x3`): compare with the best of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.case import OURS, Case, OnGpu, Size, Way, Work, agrees, compiled, forward, gradients
from vlae_fast import ops, reference

FUSED: dict[str, Any] = {"mask": "B", "pre_elu": True, "residual_scale": 0.5}


def draw(N: int, image: int, channels: int) -> list[Tensor]:
    """x, weight, bias, gain, residual."""
    x, C = (N, channels, image, image), channels
    return [torch.randn(shape) for shape in (x, (C, C, 3, 3), (C,), (C,), x)]


def work(N: int, image: int, channels: int) -> Work:
    """Mask B, with residual: x and the residual are read, y is written."""
    taps = 5 * channels * channels
    return Work(N * image * image * taps, 4 * (3 * N * image * image * channels + taps))


def way(
    op: Callable[..., Tensor],
    run: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda function: function,
    layout: torch.memory_format = torch.contiguous_format,
) -> Way:
    """How torch runs the op, and how its images lie in memory."""

    def convolution(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
        return op(x, weight, bias, gain=gain, residual=residual, **FUSED)

    def prepare(inputs: list[Tensor]) -> tuple[Callable[..., Tensor], list[Tensor]]:
        x, *weights, residual = inputs
        laid_out = partial(torch.Tensor.contiguous, memory_format=layout)
        return run(convolution), [laid_out(x), *weights, laid_out(residual)]

    return prepare


WAYS = {
    OURS: way(ops.masked_conv3x3),
    "torch eager": way(reference.masked_conv3x3),
    "torch eager, channels last": way(reference.masked_conv3x3, layout=torch.channels_last),
    "torch.compile": way(reference.masked_conv3x3, compiled),
    "torch.compile, channels last": way(reference.masked_conv3x3, compiled, torch.channels_last),
}


def quick(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 1024))


COMMON: dict[str, Any] = {
    "draw": draw,
    "base": {"N": 16, "image": 28, "channels": 12},
    "axes": {"N": (1, 16, 64, 256, 1024), "image": (28, 64, 128, 256), "channels": (12, 32, 64)},
    "compared": ({"N": 16, "image": 28, "channels": 12},),
    "gpu": OnGpu(
        tuple({"N": N, "image": 28, "channels": C} for C in (12, 32) for N in (64, 1024)),
        ("torch eager", "torch.compile"),
    ),
}
CASES = (
    Case(
        op="masked_conv3x3",
        contenders={name: forward(way) for name, way in WAYS.items()},
        work=work,
        check=agrees(forward(WAYS["torch eager"]), 1e-4),
        quick=quick,
        **COMMON,
    ),
    Case(
        op="masked_conv3x3 + gradients",
        contenders={name: gradients(way) for name, way in WAYS.items()},
        work=lambda **size: work(**size).with_gradients(),
        check=agrees(gradients(WAYS["torch eager"]), 1e-3),
        quick=lambda contender, size: size["N"] == 64 and contender != "torch.compile",
        **COMMON,
    ),
)
