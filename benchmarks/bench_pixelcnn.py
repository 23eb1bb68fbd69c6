"""Scoring a PixelCNN, forward and with all gradients, against plain torch.

The torch contenders run the op's meaning (`reference.pixelcnn_log_prob`): compare with the best of them.
"""

from collections.abc import Callable
from typing import Any

import pixelcnn_cases as inputs
import torch
import work
from cases import Size, cases
from contenders_pixelcnn import log_prob_channels_last
from contenders_torch import compiled
from pixelcnn_cases import AXES, BASE, SPEC
from torch import Tensor

from vlae_fast import PixelCNNParams, ops, reference

Score = Callable[..., Tensor]
CONTENDERS: dict[str, Callable[[], Score]] = {
    "native": lambda: ops.pixelcnn_log_prob,
    "torch eager": lambda: reference.pixelcnn_log_prob,
    "torch.compile": lambda: compiled(reference.pixelcnn_log_prob),
    "torch.compile, channels last": lambda: compiled(log_prob_channels_last),
}


def images(N: int, image: int) -> Tensor:
    return (torch.rand(N, 1, image, image) < 0.3).float()


def quick(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 256))


@cases(CONTENDERS, BASE, AXES, quick)
def test_forward(race: Any, size: Size, contender: str) -> None:
    params = inputs.network(size["channels"], size["layers"])
    arguments = images(size["N"], size["image"]), inputs.context(size["N"], size["image"]), params, SPEC
    ours, theirs = CONTENDERS["native"](), CONTENDERS[contender]()
    with torch.no_grad():
        log_prob = race(
            "pixelcnn_log_prob",
            size,
            contender,
            lambda: ours(*arguments),
            lambda: theirs(*arguments),
            work.pixelcnn(**size),
        )
    torch.testing.assert_close(log_prob, reference.pixelcnn_log_prob(*arguments), rtol=1e-4, atol=1e-2)


@cases(CONTENDERS, BASE, AXES, quick=lambda contender, size: size["N"] == 64 and contender != "torch.compile")
def test_forward_and_backward(race: Any, size: Size, contender: str) -> None:
    params = PixelCNNParams(*(t.requires_grad_() for t in inputs.network(size["channels"], size["layers"])))
    x, context = images(size["N"], size["image"]), inputs.context(size["N"], size["image"]).requires_grad_()
    ours, theirs = CONTENDERS["native"](), CONTENDERS[contender]()

    def step(score: Score) -> tuple[Tensor, ...]:
        return torch.autograd.grad(score(x, context, params, SPEC).sum(), [context, *params])

    gradients = race(
        "pixelcnn_log_prob + gradients",
        size,
        contender,
        lambda: step(ours),
        lambda: step(theirs),
        work.with_gradients(work.pixelcnn(**size)),
    )
    for actual, expected in zip(gradients, step(reference.pixelcnn_log_prob), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
