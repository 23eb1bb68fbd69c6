"""The paper's model in plain torch: the same weights, the ops' reference meaning, torch.compile where it helps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from contenders_made import inverse_incremental, inverse_naive
from contenders_pixelcnn import WavefrontSampler, log_prob_channels_last, sample_naive
from contenders_torch import compiled
from torch import Tensor

from vlae_fast import VLAE, noise, reference, use_backend

Draw = Callable[[int], Tensor]


def on_reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same call with the reference ops."""

    def run(*arguments: Any, **named: Any) -> Any:
        with use_backend("reference"):
            return function(*arguments, **named)

    return run


def channels_last(model: VLAE) -> VLAE:
    """The model with its PixelCNN's activations channels last, which suits torch.compile."""
    net = model.pixelcnn
    net.log_prob = lambda x, context: log_prob_channels_last(x, context, net.params(), net.spec)
    return model


def compiled_likelihood(model: VLAE) -> Callable[..., Tensor]:
    """`model.log_likelihood` with its inner part, the bound of up to 256 codes, compiled."""
    model._bound = compiled(model._bound)
    return on_reference(model.log_likelihood)


def _drawing(model: VLAE, flow: Callable[[Tensor], Tensor], pixels: Callable[[Tensor, Tensor], Tensor]) -> Draw:
    c, decoder = model.config, compiled(model.decoder)

    @torch.no_grad()
    def run(n: int) -> Tensor:
        images = []
        for first in range(0, n, 256):  # as model.sample does: the caches stay small
            count = min(256, n - first)
            eps, uniforms = noise.normals_and_uniforms(0, noise.SAMPLE, first, count, c.latent_size, c.height * c.width)
            images.append(pixels(decoder(flow(eps)).contiguous(), uniforms.view(count, c.height, c.width)))
        return torch.cat(images)

    return run


@torch.no_grad()
def cached(model: VLAE) -> Draw:
    """The best plain torch that we know: incremental flow, compiled decoder, wavefront of cached activations."""
    return _drawing(
        model,
        inverse_incremental(model.prior_flow.params()),
        WavefrontSampler(model.pixelcnn.params(), model.pixelcnn.spec),
    )


@torch.no_grad()
def naive(model: VLAE) -> Draw:
    """A whole compiled pass of the PixelCNN for every pixel, and of a flow step for every dimension."""
    params, spec = model.pixelcnn.params(), model.pixelcnn.spec
    logits = compiled(reference.pixelcnn_logits)
    return _drawing(model, inverse_naive(model.prior_flow.params()), partial(sample_naive, params, spec, logits))
