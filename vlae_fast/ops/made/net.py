"""A net of any wiring in plain torch, and how a gradient goes back through it: for every dtype and device."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.ops.made.spec import ACTIVATIONS, SCALES, MADESpec
from vlae_fast.params import MADEParams

__all__ = ["Layer", "NetGradients", "backward", "evaluate", "layers_of", "log_scale", "log_scale_slope"]


class Layer(NamedTuple):
    """A layer's own part of MADEParams."""

    weight: Tensor
    """[rows, columns], 0 where the degrees forbid a connection."""
    bias: Tensor
    mask: Tensor
    """[rows, columns] of the weight."""
    adds: Tensor | None
    """[rows]: 1 where a unit adds what another layer has; None: nowhere."""


class NetGradients(NamedTuple):
    """Gradients of the arguments of `evaluate`."""

    dx: Tensor
    dweight: Tensor
    """[W], as in MADEParams."""
    dbias: Tensor
    """[B]."""
    dhidden_context: Tensor | None
    dgates: Tensor | None


def layers_of(params: MADEParams, spec: MADESpec) -> list[Layer]:
    """The layers of a net, masked."""
    D = params.positions.numel()
    rows = [layer.rows for layer in spec.layers]
    outputs = params.positions.repeat(rows[-1] // max(D, 1))
    degrees = [*params.degrees.split(rows[:-1]), outputs]
    weights = params.weight.split([n * spec.columns(i, D) for i, n in enumerate(rows)])
    layers = []
    for i, (weight, bias) in enumerate(zip(weights, params.bias.split(rows), strict=True)):
        _, source, _, adds, _, _ = spec.layers[i]
        mask = masks.made_layer(degrees[i], params.positions + 1 if source < 0 else degrees[source])
        added = None if adds < 0 else (degrees[i] >= degrees[adds]).to(weight.dtype)
        layers.append(Layer(masks.masked(weight.view(mask.shape), mask), bias, mask, added))
    return layers


def evaluate(
    x: Tensor, layers: list[Layer], spec: MADESpec, hidden_context: Tensor | None, gates: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Values [N, rows] of every layer for x [N, D], and what they were before gates and additions."""
    activate, _ = ACTIVATIONS[spec.activation]
    values: list[Tensor] = []
    sums: list[Tensor] = []
    for layer, wire, context, gate in zip(
        layers, spec.layers, spec.starts("context"), spec.starts("gated"), strict=True
    ):
        source = x if wire.source < 0 else values[wire.source]
        v = F.linear(activate(source) if wire.activated else source, layer.weight, layer.bias)
        if context >= 0 and hidden_context is not None:
            v = v + hidden_context[:, context : context + wire.rows]
        sums.append(v)
        if gate >= 0 and gates is not None:
            v = v * gates[:, gate : gate + wire.rows]
        if layer.adds is not None:
            v = v + layer.adds * values[wire.adds]
        values.append(v)
    return values, sums


def backward(
    dout: Tensor,
    x: Tensor,
    layers: list[Layer],
    spec: MADESpec,
    hidden_context: Tensor | None,
    gates: Tensor | None,
    passed: tuple[list[Tensor], list[Tensor]],
) -> NetGradients:
    """Gradients of `sum(dout * values[-1])`, given what `evaluate` passed: [N, rows of the last layer]."""
    activate, slope = ACTIVATIONS[spec.activation]
    values, sums = passed
    dvalues = [*(torch.zeros_like(v) for v in values[:-1]), dout]
    dx, dweights, dbiases = torch.zeros_like(x), [], []
    dcontext = None if hidden_context is None else torch.zeros_like(hidden_context)
    dgates = None if gates is None else torch.zeros_like(gates)
    contexts, gatings = spec.starts("context"), spec.starts("gated")
    for i in reversed(range(len(layers))):
        layer, wire, d = layers[i], spec.layers[i], dvalues[i]
        if layer.adds is not None:
            dvalues[wire.adds] += layer.adds * d
        if gates is not None and dgates is not None and gatings[i] >= 0:
            columns = slice(gatings[i], gatings[i] + wire.rows)
            dgates[:, columns] = d * sums[i]
            d = d * gates[:, columns]
        if dcontext is not None and contexts[i] >= 0:
            dcontext[:, contexts[i] : contexts[i] + wire.rows] = d
        source = x if wire.source < 0 else values[wire.source]
        dbiases.append(d.sum(0))
        dweights.append(masks.masked(d.mT @ (activate(source) if wire.activated else source), layer.mask).flatten())
        dsource = d @ layer.weight
        if wire.source < 0:
            dx += dsource
        else:
            dvalues[wire.source] += dsource * slope(source) if wire.activated else dsource
    return NetGradients(dx, torch.cat(dweights[::-1]), torch.cat(dbiases[::-1]), dcontext, dgates)


def log_scale(s: Tensor, spec: MADESpec) -> Tensor:
    """Log scales of a net's outputs [N, D]."""
    return SCALES[spec.scale][0](s, *(*spec.numbers, 0.0, 0.0)[:2])


def log_scale_slope(s: Tensor, spec: MADESpec) -> Tensor:
    """The derivative of `log_scale`."""
    return SCALES[spec.scale][1](s, *(*spec.numbers, 0.0, 0.0)[:2])
