"""The meaning of the PixelCNN's ops, for any float dtype and device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.config import PixelCNNSpec
from vlae_fast.ops.plain import Visit, column, conv, unchanged
from vlae_fast.params import PixelCNNParams

__all__ = ["pixelcnn_log_prob", "pixelcnn_logits", "pixelcnn_sample"]


def pixelcnn_logits(
    x: Tensor,
    context: Tensor | None,
    params: PixelCNNParams,
    spec: PixelCNNSpec = PixelCNNSpec(),
    visit: Visit = unchanged,
) -> Tensor:
    """Logits of a PixelCNN made of residual blocks (the paper's decoder, appendix A).

    x [N, 1, H, W] any finite values, context [N, K, H, W] or None -> [N, 1, H, W]. The logit of a pixel depends on
    the pixels before it in raster order alone. `visit` is called for "input", "hidden", "pointwise" and "output".
    """
    p, scale = params, spec.residual_scale
    visible = masks.visible_pixels(x.shape[2], x.shape[3], spec.visible_stride, like=x)
    h = conv(x * visible, masks.masked(p.image_weight, masks.causal3x3("A", like=x)))
    if context is not None:
        h = h + conv(context, p.context_weight)
    h = visit("input", 0, h) + column(p.input_bias)
    causal = masks.masked(p.hidden_weight, masks.causal3x3("B", like=x))
    tied = len(p.hidden_weight) == 1
    f = h
    for taps, index, closes in spec.stages(len(p.hidden_gain), len(p.pointwise_weight)):
        if taps == 5:
            f = visit("hidden", index, conv(F.elu(f), causal[0 if tied else index]))
            f = column(p.hidden_gain[index]) * f + column(p.hidden_bias[index])
        else:
            block, i = divmod(index, 2)
            f = visit("pointwise", index, conv(F.elu(f), p.pointwise_weight[block, i][:, :, None, None]))
            f = f + column(p.pointwise_bias[block, i])
        if closes:
            f = h = h + scale * f
    return visit("output", 0, conv(F.elu(h), p.output_weight[None, :, None, None])) + p.output_bias


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
