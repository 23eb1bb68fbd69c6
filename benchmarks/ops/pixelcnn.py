"""PixelCNNs: scoring, forward and with all gradients, and drawing, against plain torch.

Those that score run the op's meaning (`reference.pixelcnn_log_prob`): compare with the best of them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.case import OURS, Call, Case, Contender, OnGpu, Size, Way, Work, agrees, compiled, forward, gradients
from benchmarks.ops.pixelcnn_contenders import CachedSampler, WavefrontSampler, log_prob_channels_last, sample_naive
from vlae_fast import PixelCNNParams, PixelCNNSpec, ops, reference

MAPS, BLOCKS = 4, 4
"""Context maps, 1x1 blocks."""
BASE = {"N": 16, "image": 28, "channels": 12, "layers": 5}
"""Tied mask-B layers, a residual block each, with a 1x1 block in the first gaps (wiring R1)."""
PAPER = {"image": 28, "channels": 12, "layers": 12, "block_convs": 2, "untied": 1}
"""The preset "paper" (wiring R4)."""
AXES = {
    "N": (1, 16, 64, 256, 1024),
    "image": (28, 64, 128, 256),
    "channels": (12, 24, 48),
    "layers": (5, 10, 20),  # the window: a pixel sees layers + 1 rows up and columns to the left
}


class Inputs(NamedTuple):
    """Random."""

    x: Tensor
    context: Tensor
    params: PixelCNNParams
    uniforms: Tensor
    spec: PixelCNNSpec


def draw(N: int, image: int, channels: int, layers: int, block_convs: int = 1, untied: int = 0) -> Inputs:
    C, L = channels, layers

    def normal(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape) / (fan * L) ** 0.5

    params = PixelCNNParams(
        normal(C, 1, 3, 3, fan=4), normal(C, MAPS, 3, 3, fan=9 * MAPS), normal(C, fan=4),
        normal(L if untied else 1, C, C, 3, 3, fan=5 * C), torch.rand(L, C) + 0.5, normal(L, C, fan=4),
        normal(BLOCKS, 2, C, C, fan=C), normal(BLOCKS, 2, C, fan=4), normal(C, fan=C), normal(1, fan=1),
    )  # fmt: skip
    x, context = (torch.rand(N, 1, image, image) < 0.3).float(), torch.randn(N, MAPS, image, image)
    return Inputs(x, context, params, torch.rand(N, image, image), PixelCNNSpec(block_convs=block_convs))


def work(N: int, image: int, channels: int, layers: int, blocks: int = BLOCKS, maps: int = MAPS, **wiring: int) -> Work:
    """Scoring or drawing: context and image move, activations need not."""
    C = channels
    weights = 4 * C + 9 * C * maps + layers * 5 * C * C + blocks * 2 * C * C + C
    return Work(N * image * image * weights, 4 * (N * image * image * (maps + 1) + weights))


# --- scoring --------------------------------------------------------------------------------------------------------


def way(make: Callable[[], Callable[..., Tensor]]) -> Way:
    def prepare(inputs: Inputs) -> tuple[Callable[..., Tensor], list[Tensor]]:
        log_prob = make()

        def score(context: Tensor, *params: Tensor) -> Tensor:
            return log_prob(inputs.x, context, PixelCNNParams(*params), inputs.spec)

        return score, [inputs.context, *inputs.params]

    return prepare


WAYS = {
    OURS: way(lambda: ops.pixelcnn_log_prob),
    "torch eager": way(lambda: reference.pixelcnn_log_prob),
    "torch.compile": way(lambda: compiled(reference.pixelcnn_log_prob)),
    "torch.compile, channels last": way(lambda: compiled(log_prob_channels_last)),
}


def scores_quickly(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 256))


COMMON: dict[str, Any] = {"draw": draw, "base": BASE, "axes": AXES}
ON_GPU = OnGpu(
    (BASE | {"N": 64}, BASE | {"N": 1024}, {"N": 1024, **PAPER}),
    ("torch eager", "torch.compile"),
)

# --- drawing --------------------------------------------------------------------------------------------------------


def sampler(make: Callable[[PixelCNNParams, PixelCNNSpec], Callable[[Tensor, Tensor], Tensor]]) -> Contender:
    def prepare(inputs: Inputs) -> Call:
        sample = make(inputs.params, inputs.spec)
        return lambda: sample(inputs.context, inputs.uniforms)

    return prepare


SAMPLERS = {
    OURS: sampler(lambda params, spec: lambda context, u: ops.pixelcnn_sample(context, params, u, spec)),
    "torch cached, wavefront": sampler(WavefrontSampler),
    "torch cached, pixel by pixel": sampler(CachedSampler),
    "torch naive": sampler(lambda params, spec: partial(sample_naive, params, spec, reference.pixelcnn_logits)),
    "torch naive, torch.compile": sampler(
        lambda params, spec: partial(sample_naive, params, spec, compiled(reference.pixelcnn_logits))
    ),
}


def draws(contender: str, size: Size) -> bool:
    """A pass a pixel takes 4 s for 16 small images, and minutes where the others take a second."""
    return not contender.startswith("torch naive") or (size["N"] <= 16 and size == BASE | {"N": size["N"]})


def draws_quickly(contender: str, size: Size) -> bool:
    if contender.startswith("torch naive"):
        return contender == "torch naive" and size["N"] == 1
    if contender == "torch cached, pixel by pixel":
        return size == BASE | {"N": size["N"]} and size["N"] <= 256
    return size == BASE | {"N": size["N"]} or size == BASE | {"image": size["image"]}


def check_drawn(inputs: Inputs, x: Tensor) -> None:
    """Every pixel, given those before it; a tie may fall either way."""
    p = torch.sigmoid(reference.pixelcnn_logits(x, inputs.context, inputs.params, inputs.spec))[:, 0]
    differs = x[:, 0] != (inputs.uniforms < p).float()
    assert not (differs & ((inputs.uniforms - p).abs() > 1e-4)).any()


CASES = (
    Case(
        op="pixelcnn_log_prob",
        contenders={name: forward(way) for name, way in WAYS.items()},
        work=work,
        check=agrees(forward(WAYS["torch eager"]), 1e-4),
        quick=scores_quickly,
        compared=(BASE,),
        gpu=ON_GPU,
        **COMMON,
    ),
    Case(
        op="pixelcnn_log_prob + gradients",
        contenders={name: gradients(way) for name, way in WAYS.items()},
        work=lambda **size: work(**size).with_gradients(),
        check=agrees(gradients(WAYS["torch eager"]), 1e-3),
        quick=lambda contender, size: size["N"] == 64 and contender != "torch.compile",
        compared=(BASE,),
        gpu=ON_GPU,
        **COMMON,
    ),
    Case(
        op="pixelcnn_sample",
        contenders=SAMPLERS,
        work=work,
        check=check_drawn,
        quick=draws_quickly,
        runs=draws,
        compared=(BASE | {"N": 1}, BASE),
        gpu=OnGpu(
            (*(BASE | {"N": N} for N in (1, 16, 256, 1024, 4096, 16384)), *({"N": N, **PAPER} for N in (1, 4096))),
            ("torch cached, wavefront", "torch naive"),
            ungraphed=("torch naive",),
        ),
        **COMMON,
    ),
)
