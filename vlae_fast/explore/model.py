"""A model as the row of bytes that csrc/wasm/model.cpp reads: numbers of 32 bits, weights of 16."""

import copy
from collections.abc import Iterator
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlae_fast import ops
from vlae_fast.layers import Layer, MADEFlow, PixelCNN
from vlae_fast.model import VLAE
from vlae_fast.ops.resnet.wiring import Row, wiring
from vlae_fast.ops.weight_norm.rows import rows
from vlae_fast.params import ResNetBlockParams

__all__ = ["packed", "rounded"]

_RESIDUAL_SCALE = signature(ops.resnet).parameters["residual_scale"].default


def rounded(model: VLAE) -> VLAE:
    """A copy with all weights rounded to half precision: what a page computes with. That of shipped ones is no other.

    Raises ValueError that names a weight that half precision cannot hold.
    """
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        half = parameter.data.half()
        if not torch.isfinite(half).all():
            raise ValueError(f"model: {name}: a weight beyond what half precision holds (65,504)")
        parameter.data.copy_(half)
    return model


def packed(model: VLAE) -> bytes:
    """A model that `codec.exact.Exact` takes, with a code."""
    assert model.encoder is not None
    assert model.decoder is not None
    assert model.pixelcnn is not None
    c = model.config
    parts = [_numbers(c.latent_size, c.dense_units), *_flow(model.prior_flow)]
    weights = {layer: layer.v for layer in model.modules() if isinstance(layer, Layer)}
    shape = (1, 1, c.height, c.width)
    parts += _convolutions(shape, model.encoder.blocks.params(weights), _layers(model.encoder.blocks))
    for layer in (model.encoder.dense, model.encoder.moments, model.decoder.dense1, model.decoder.dense2):
        parts += _layer(layer)
    blocks = model.decoder.blocks.params(weights, model.decoder.output)
    parts += _convolutions((1, *model.decoder.shape), blocks, [*_layers(model.decoder.blocks), model.decoder.output])
    return b"".join([*parts, *_pixelcnn(model.pixelcnn)])


def _numbers(*numbers: int) -> bytes:
    return np.array(numbers, "<i4").tobytes()


def _single(number: float) -> bytes:
    return np.array(number, "<f4").tobytes()


def _halves(*tensors: Tensor) -> Iterator[bytes]:
    for tensor in tensors:
        yield tensor.detach().numpy().astype("<f2").tobytes()


def _layers(network: nn.Module) -> list[Layer]:
    """In the order of blocks, and in each first, second, skip convolution."""
    return [module for module in network.modules() if isinstance(module, Layer)]


def _layer(layer: Layer) -> Iterator[bytes]:
    """Outputs go first, whatever axis of v they are."""
    return _halves(rows(layer.v.detach(), layer.axis), layer.g, layer.b)


def _convolutions(shape: Any, blocks: list[ResNetBlockParams], layers: list[Layer]) -> Iterator[bytes]:
    table: list[Row] = wiring(shape, blocks)
    yield _numbers(*shape[2:], len(table))
    rest = iter(layers)
    for row in table:
        yield _numbers(*row)
        for _ in range((2, 3, 3, 1)[row.kind]):
            yield from _layer(next(rest))
    yield _single(_RESIDUAL_SCALE)


def _flow(flow: MADEFlow | None) -> Iterator[bytes]:
    """Of each row the entries that count."""
    if flow is None:
        yield _numbers(0, 1)
        return
    T, M, _ = flow.hidden1_v.shape
    yield _numbers(T, M)
    for name in ("hidden1", "hidden2", "output"):
        v, g, b, live = (getattr(flow, f"{name}_{part}") for part in ("v", "g", "b", "live"))
        v = v.flatten(0, 1)
        yield from _halves(v[torch.arange(v.shape[1], device=live.device) < live[:, None]], g, b)


def _pixelcnn(net: PixelCNN) -> Iterator[bytes]:
    """Of each filter the taps that count."""
    (C, K, _, _), L, P = net.input_v.shape, len(net.hidden_g), len(net.pointwise_v)
    yield _numbers(C, K - 1, L, P, len(net.hidden_v), net.spec.visible_stride)
    yield _numbers(*(number for row in net.spec.stages(L, P) for number in row))
    yield _single(net.spec.residual_scale)
    yield from _halves(net.input_v[:, net.input_mask.bool()], net.input_g, net.input_b)
    yield from _halves(net.hidden_v[..., net.hidden_mask.bool()], net.hidden_g, net.hidden_b)
    yield from _halves(net.pointwise_v, net.pointwise_g, net.pointwise_b)
    yield from _halves(net.output_v, net.output_g, net.output_b)
