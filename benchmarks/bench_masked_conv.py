"""One masked 3x3 convolution with ELU, gain and residual fused, against plain torch.

The torch contenders run the op's meaning (`reference.masked_conv3x3`): compare with the best of them.
"""

from collections.abc import Callable
from typing import Any

import torch
import work
from cases import Size, cases
from contenders_torch import WAYS
from torch import Tensor

from vlae_fast import ops, reference

Convolution = Callable[..., Tensor]
FUSED = {"mask": "B", "pre_elu": True, "residual_scale": 0.5}
BASE = {"N": 16, "image": 28, "channels": 12}
AXES = {"N": (1, 16, 64, 256, 1024), "image": (28, 64, 128, 256), "channels": (12, 32, 64)}


def native(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    return ops.masked_conv3x3(x, weight, bias, gain=gain, residual=residual, **FUSED)


def plain(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    return reference.masked_conv3x3(x, weight, bias, gain=gain, residual=residual, **FUSED)


CONTENDERS = {"native": WAYS["torch eager"], **WAYS}


def prepare(contender: str, arguments: list[Tensor]) -> tuple[Convolution, list[Tensor]]:
    """The contender and its own arguments."""
    way = CONTENDERS[contender]
    x, *weights, residual = arguments
    convolution = native if contender == "native" else way.run(plain)
    return convolution, [way.laid_out(x), *weights, way.laid_out(residual)]


def tensors(N: int, image: int, channels: int) -> list[Tensor]:
    x, C = (N, channels, image, image), channels
    return [torch.randn(shape).requires_grad_() for shape in (x, (C, C, 3, 3), (C,), (C,), x)]


def quick(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 1024))


@cases(CONTENDERS, BASE, AXES, quick)
def test_forward(race: Any, size: Size, contender: str) -> None:
    arguments = tensors(**size)
    convolution, own = prepare(contender, arguments)
    with torch.no_grad():
        y = race(
            "masked_conv3x3",
            size,
            contender,
            lambda: native(*arguments),
            lambda: convolution(*own),
            work.masked_conv(**size),
        )
    torch.testing.assert_close(y, plain(*arguments), rtol=1e-4, atol=1e-4)


@cases(CONTENDERS, BASE, AXES, quick=lambda contender, size: size["N"] == 64 and contender != "torch.compile")
def test_forward_and_backward(race: Any, size: Size, contender: str) -> None:
    arguments = tensors(**size)
    convolution, own = prepare(contender, arguments)
    dy = torch.randn_like(arguments[0])
    own_dy = CONTENDERS[contender].laid_out(dy)
    gradients = race(
        "masked_conv3x3 + gradients",
        size,
        contender,
        lambda: torch.autograd.grad(native(*arguments), arguments, dy),
        lambda: torch.autograd.grad(convolution(*own), own, own_dy),
        work.with_gradients(work.masked_conv(**size)),
    )
    for actual, expected in zip(gradients, torch.autograd.grad(plain(*arguments), arguments, dy), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
