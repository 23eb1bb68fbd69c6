"""Drawing images: our sampler, and plain torch with cached activations and with a whole pass a pixel."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pixelcnn_cases as inputs
import torch
import work
from cases import Size, cases
from contenders_pixelcnn import CachedSampler, WavefrontSampler, sample_naive
from contenders_torch import compiled
from pixelcnn_cases import AXES, BASE, SPEC
from torch import Tensor

from vlae_fast import PixelCNNParams, ops, reference

Sample = Callable[[Tensor, Tensor], Tensor]


def native(params: PixelCNNParams) -> Sample:
    return lambda context, uniforms: ops.pixelcnn_sample(context, params, uniforms, SPEC)


CONTENDERS: dict[str, Callable[[PixelCNNParams], Sample]] = {
    "native": native,
    "torch cached, wavefront": lambda params: WavefrontSampler(params, SPEC),
    "torch cached, pixel by pixel": lambda params: CachedSampler(params, SPEC),
    "torch naive": lambda params: partial(sample_naive, params, SPEC, reference.pixelcnn_logits),
    "torch naive, torch.compile": lambda params: partial(
        sample_naive, params, SPEC, compiled(reference.pixelcnn_logits)
    ),
}


def runs(contender: str, size: Size) -> bool:
    """A pass a pixel takes 4 s for 16 small images, and minutes where the others take a second."""
    return not contender.startswith("torch naive") or (size["N"] <= 16 and size == BASE | {"N": size["N"]})


def quick(contender: str, size: Size) -> bool:
    if contender.startswith("torch naive"):
        return contender == "torch naive" and size["N"] == 1
    if contender == "torch cached, pixel by pixel":
        return size == BASE | {"N": size["N"]} and size["N"] <= 256
    return size == BASE | {"N": size["N"]} or size == BASE | {"image": size["image"]}


@cases(CONTENDERS, BASE, AXES, quick, runs)
def test_sample(race: Any, size: Size, contender: str) -> None:
    N, image = size["N"], size["image"]
    params = inputs.network(size["channels"], size["layers"])
    context, uniforms = inputs.context(N, image), torch.rand(N, image, image)
    ours, theirs = native(params), CONTENDERS[contender](params)
    x = race(
        "pixelcnn_sample",
        size,
        contender,
        lambda: ours(context, uniforms),
        lambda: theirs(context, uniforms),
        work.pixelcnn(**size),
    )
    p = torch.sigmoid(reference.pixelcnn_logits(x, context, params, SPEC))[:, 0]
    differs = x[:, 0] != (uniforms < p).float()
    assert not (differs & ((uniforms - p).abs() > 1e-4)).any()
