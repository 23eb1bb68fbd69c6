"""The meaning of every op in plain torch, for any float dtype and device. Readable, differentiable, slow.

Letters: N batch, C/K channels in/out, H/W rows/columns, L mask-B layers, P 1x1 blocks, D latent size, M hidden units,
T flow steps, R rows of n entries. The functions take checked arguments; `vlae_fast.ops` checks them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.config import PixelCNNSpec

__all__ = [
    "MADEFlowParams",
    "PixelCNNParams",
    "made_flow_forward",
    "made_flow_inverse",
    "masked_conv3x3",
    "pixelcnn_log_prob",
    "pixelcnn_logits",
    "pixelcnn_sample",
    "weight_norm",
]

Visit = Callable[[str, int, Tensor], Tensor]
"""Sees (layer name, layer index, activations before gain and bias) and returns what goes on in their place."""


class PixelCNNParams(NamedTuple):
    """Plain (already weight-normalised) tensors of a PixelCNN; taps that a mask forbids are ignored."""

    image_weight: Tensor
    """[C, 1, 3, 3], mask A."""
    context_weight: Tensor
    """[C, K, 3, 3], no mask; K = 0 without context."""
    input_bias: Tensor
    """[C]."""
    hidden_weight: Tensor
    """[S, C, C, 3, 3], mask B; S = 1 (tied: one weight for all layers) or L."""
    hidden_gain: Tensor
    """[L, C]."""
    hidden_bias: Tensor
    """[L, C]."""
    pointwise_weight: Tensor
    """[P, 2, C, C]: block, first or second convolution, out, in."""
    pointwise_bias: Tensor
    """[P, 2, C]."""
    output_weight: Tensor
    """[C]."""
    output_bias: Tensor
    """[1]."""


class MADEFlowParams(NamedTuple):
    """Plain tensors of T MADE steps with two hidden layers; connections that the degrees forbid are ignored."""

    weight1: Tensor
    """[T, M, D]."""
    bias1: Tensor
    """[T, M]."""
    weight2: Tensor
    """[T, M, M]."""
    bias2: Tensor
    """[T, M]."""
    weight3: Tensor
    """[T, D, M] (mean only) or [T, 2D, M] (rows 0..D-1 mean, D..2D-1 log scale)."""
    bias3: Tensor
    """[T, D] or [T, 2D]."""
    degrees: Tensor
    """[M] int64, non-decreasing, in 0..D-1; the same for both hidden layers."""


def _unchanged(name: str, index: int, t: Tensor) -> Tensor:
    return t


def _column(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution with 3x3 or 1x1 filters and zero padding; torch's own refuses some sizes of 0."""
    if x.numel() and weight.numel():
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    nothing = 0 * (x.sum() + weight.sum())  # one of them is empty: so is the result, or every sum of its pixels
    return nothing.expand(len(x), len(weight), *x.shape[2:])


def masked_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mask: str,
    gain: Tensor | None = None,
    pre_elu: bool = False,
    residual: Tensor | None = None,
    residual_scale: float = 1.0,
) -> Tensor:
    """`residual + residual_scale * (gain * conv(mask * weight, elu?(x)) + bias)`, raster-causal, zero padding.

    x [N, C, H, W], weight [K, C, 3, 3], bias and gain [K], residual [N, K, H, W] -> [N, K, H, W].
    """
    y = _conv(F.elu(x) if pre_elu else x, masks.masked(weight, masks.causal3x3(mask, like=weight)))
    y = residual_scale * ((y if gain is None else _column(gain) * y) + _column(bias))
    return y if residual is None else residual + y


def pixelcnn_logits(
    x: Tensor,
    context: Tensor | None,
    params: PixelCNNParams,
    spec: PixelCNNSpec = PixelCNNSpec(),
    visit: Visit = _unchanged,
) -> Tensor:
    """Logits of a PixelCNN made of residual blocks (the paper's decoder, appendix A).

    x [N, 1, H, W] any finite values, context [N, K, H, W] or None -> [N, 1, H, W]. The logit of a pixel depends on
    the pixels before it in raster order alone. `visit` is called for "input", "hidden", "pointwise" and "output".
    """
    p, scale = params, spec.residual_scale
    visible = masks.visible_pixels(x.shape[2], x.shape[3], spec.visible_stride, like=x)
    h = _conv(x * visible, masks.masked(p.image_weight, masks.causal3x3("A", like=x)))
    if context is not None:
        h = h + _conv(context, p.context_weight)
    h = visit("input", 0, h) + _column(p.input_bias)
    causal = masks.masked(p.hidden_weight, masks.causal3x3("B", like=x))
    layers, tied = len(p.hidden_gain), len(p.hidden_weight) == 1
    after = spec.pointwise_positions(len(p.pointwise_weight), layers)
    for block in range(layers // spec.block_convs):
        f = h
        for layer in range(block * spec.block_convs, (block + 1) * spec.block_convs):
            f = visit("hidden", layer, _conv(F.elu(f), causal[0 if tied else layer]))
            f = _column(p.hidden_gain[layer]) * f + _column(p.hidden_bias[layer])
        h = h + scale * f
        for k in (k for k, position in enumerate(after) if position == block):
            f = h
            for i in range(2):
                f = visit("pointwise", 2 * k + i, _conv(F.elu(f), p.pointwise_weight[k, i][:, :, None, None]))
                f = f + _column(p.pointwise_bias[k, i])
            h = h + scale * f
    return visit("output", 0, _conv(F.elu(h), p.output_weight[None, :, None, None])) + p.output_bias


def pixelcnn_log_prob(
    x: Tensor, context: Tensor | None, params: PixelCNNParams, spec: PixelCNNSpec = PixelCNNSpec()
) -> Tensor:
    """Bernoulli log-likelihood of binary images x [N, 1, H, W] under `pixelcnn_logits`: [N], nats."""
    logits = pixelcnn_logits(x, context, params, spec)
    return (x * logits - F.softplus(logits)).flatten(1).sum(1)


@torch.no_grad()
def pixelcnn_sample(
    context: Tensor | None,
    params: PixelCNNParams,
    uniforms: Tensor,
    spec: PixelCNNSpec = PixelCNNSpec(),
    *,
    temperature: float = 1.0,
    given: Tensor | None = None,
) -> Tensor:
    """Images drawn pixel after pixel in raster order: 1 where `u < sigmoid(logit / temperature)`, [N, 1, H, W].

    context [N, K, H, W] or None, uniforms [N, H, W] in [0, 1); where given [N, H, W] (int8) is 0 or 1 that pixel is
    kept, where it is -1 the pixel is drawn: NaN where its logit is NaN. A whole pass for every pixel.
    """
    N, H, W = uniforms.shape
    x = uniforms.new_zeros(N, 1, H, W)
    for i in range(H):
        for j in range(W):
            logit = pixelcnn_logits(x, context, params, spec)[:, 0, i, j]
            drawn = (uniforms[:, i, j] < torch.sigmoid(logit / temperature)).to(x.dtype)
            drawn = torch.where(logit.isnan(), logit, drawn)
            if given is not None:
                drawn = torch.where(given[:, i, j] < 0, drawn, given[:, i, j].to(x.dtype))
            x[:, 0, i, j] = drawn
    return x


def _connected(params: MADEFlowParams) -> MADEFlowParams:
    """The same flow with 0 in place of the weights of all connections that the degrees forbid."""
    weight1, weight2, weight3 = masks.made_weights(params)
    return params._replace(weight1=weight1, weight2=weight2, weight3=weight3)


def _made(
    y: Tensor, p: MADEFlowParams, t: int, hidden_context: Tensor | None, visit: Visit
) -> tuple[Tensor, Tensor | None]:
    """Mean and log scale (None if mean only) of step t of a flow of `_connected` weights for y [N, D]."""
    D = y.shape[1]
    h = visit("hidden1", t, F.linear(y, p.weight1[t])) + p.bias1[t]
    h = F.relu(h if hidden_context is None else h + hidden_context[:, t])
    h = F.relu(visit("hidden2", t, F.linear(h, p.weight2[t])) + p.bias2[t])
    out = visit("output", t, F.linear(h, p.weight3[t])) + p.bias3[t]
    return out[:, :D], out[:, D:] if out.shape[1] > D else None


def made_flow_forward(
    z: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None, visit: Visit = _unchanged
) -> tuple[Tensor, Tensor]:
    """Density direction of T autoregressive steps (the paper's eq. 13; Kingma et al. 2016, arXiv:1606.04934).

    Each step is `y = y - mu(y)` or `y = (y - mu(y)) * exp(-s(y))`; the order of the D variables is reversed after
    every step, the last included. z [N, D], hidden_context [N, T, M] -> eps [N, D], log_det [N] = -sum of all s.
    `visit` is called for "hidden1", "hidden2" and "output" of every step.
    """
    p = _connected(params)
    y, log_det = z, z.new_zeros(len(z))
    for t in range(len(p.weight1)):
        mu, s = _made(y, p, t, hidden_context, visit)
        y = y - mu
        if s is not None:
            y, log_det = y * torch.exp(-s), log_det - s.sum(1)
        y = y.flip(1)
    return y, log_det


def made_flow_inverse(eps: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None) -> Tensor:
    """Sampling direction: the z [N, D] for which `made_flow_forward(z)` is eps [N, D]. D passes a step."""
    p = _connected(params)
    y = eps
    for t in reversed(range(len(p.weight1))):
        y = out = y.flip(1)  # what stands behind column j of y has no part in that column
        for j in range(eps.shape[1]):
            mu, s = _made(y, p, t, hidden_context, _unchanged)
            drawn = (out[:, j] if s is None else out[:, j] * torch.exp(s[:, j])) + mu[:, j]
            y = torch.cat([y[:, :j], drawn[:, None], y[:, j + 1 :]], 1)
    return y


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """`g * v / |v|` of every row's first `live` entries (Salimans & Kingma 2016, arXiv:1602.07868), 0 beyond.

    v [R, n], g [R], live [R] int64 in 0..n -> [R, n]. A row of a norm below 1e-8 counts as zero, and so do its
    gradients.
    """
    v = v.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    return g[:, None] * (norm >= 1e-8) * v / norm.clamp_min(1e-8)
