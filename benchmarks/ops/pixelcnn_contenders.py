"""Plain torch ways of running a PixelCNN and of drawing from it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import PixelCNNParams, PixelCNNSpec, masks


def log_prob_channels_last(x: Tensor, context: Tensor, params: PixelCNNParams, spec: PixelCNNSpec) -> Tensor:
    """`reference.pixelcnn_log_prob` as torch.compile likes it best: activations channels last, gains and biases folded
    into the convolutions, so that what is left between them runs over contiguous memory.
    """
    p, scale = params, spec.residual_scale
    L, tied = len(p.hidden_gain), len(p.hidden_weight) == 1
    visible = masks.visible_pixels(x.shape[2], x.shape[3], spec.visible_stride, like=x)
    image_weight = p.image_weight * masks.causal3x3("A", like=x)
    inputs = torch.cat([x * visible, context], 1).contiguous(memory_format=torch.channels_last)
    h = F.conv2d(inputs, torch.cat([image_weight, p.context_weight], 1), p.input_bias, padding=1)
    causal = p.hidden_weight * masks.causal3x3("B", like=x)
    after = spec.pointwise_positions(len(p.pointwise_weight), L)
    for block in range(L // spec.block_convs):
        f = h
        for layer in range(block * spec.block_convs, (block + 1) * spec.block_convs):
            weight = causal[0 if tied else layer] * p.hidden_gain[layer][:, None, None, None]
            f = F.conv2d(F.elu(f), weight, p.hidden_bias[layer], padding=1)
        h = h + scale * f
        for k in (k for k, position in enumerate(after) if position == block):
            f = h
            for i in range(2):
                f = F.conv2d(F.elu(f), p.pointwise_weight[k, i][:, :, None, None], p.pointwise_bias[k, i])
            h = h + scale * f
    logits = F.conv2d(F.elu(h), p.output_weight[None, :, None, None], p.output_bias)
    return (x * logits - F.softplus(logits)).flatten(1).sum(1)


class _Folded:
    """Weights of a PixelCNN as matrices: gains and scales multiplied in."""

    def __init__(self, params: PixelCNNParams, spec: PixelCNNSpec) -> None:
        p = params
        L = len(p.hidden_gain)
        closes = torch.arange(1, L + 1) % spec.block_convs == 0
        scale = torch.where(closes, spec.residual_scale, 1.0)[:, None]
        weight = p.hidden_weight.transpose(1, 2)  # [1 if tied, else L, in, out, 3, 3]
        taps = [weight[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]
        self.gain, self.bias = (scale * p.hidden_gain)[:, None], (scale * p.hidden_bias)[:, None]
        self.neighbours, self.own = torch.cat(taps[:4], 1), (taps[4] * self.gain).unbind(0)
        self.folded = self.neighbours * self.gain
        self.image = torch.stack([p.image_weight[:, 0, i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 0))])
        self.context, self.input_bias = p.context_weight, p.input_bias
        self.output, self.output_bias = p.output_weight, p.output_bias
        self.stride = spec.visible_stride
        after = spec.pointwise_positions(len(p.pointwise_weight), L)
        self.blocks = []
        for i in range(L // spec.block_convs):
            pointwise = [
                (b[0], w[0].t(), spec.residual_scale * b[1], spec.residual_scale * w[1].t())
                for w, b, position in zip(p.pointwise_weight, p.pointwise_bias, after, strict=True)
                if position == i
            ]
            self.blocks.append((range(i * spec.block_convs, (i + 1) * spec.block_convs), pointwise))

    def _from_neighbours(self, around: Tensor) -> Tensor:
        """What the first taps give to all layers: around [L, n, taps * C] -> [L, n, C]."""
        terms = around.shape[2]
        if len(self.neighbours) == 1:  # tied: a product, which torch likes better than a batch of them
            return torch.addcmul(self.bias, torch.matmul(around, self.neighbours[0, :terms]), self.gain)
        return torch.baddbmm(self.bias, around, self.folded[:, :terms])

    def _inputs(self, context: Tensor) -> Tensor:
        """What the context gives to the input layer: [H, W, N, C]."""
        return F.conv2d(context, self.context, self.input_bias, padding=1).permute(2, 3, 0, 1)

    def _drawn(self, h: Tensor, taps: tuple[Tensor, ...], here: tuple[Tensor, ...], threshold: Tensor) -> Tensor:
        """Pixels [n] from input activations h [n, C]; `taps` [n, C] of each layer is what the neighbours give.

        Each layer's input is written to `here`. In few calls: they are what plain torch spends its time on.
        """
        for layers, pointwise in self.blocks:
            f = h
            for layer in layers:
                f = torch.addmm(taps[layer], F.elu_(here[layer].copy_(f)), self.own[layer])
            h.add_(f)
            for bias1, weight1, bias2, weight2 in pointwise:
                f = F.elu_(torch.addmm(bias1, torch.celu(h), weight1))
                h.add_(torch.addmm(bias2, f, weight2))
        return threshold < torch.mv(F.elu_(h), self.output)


class WavefrontSampler(_Folded):
    """The fastest that we could write: all pixels of equal column + 2 * row at once, activations cached.

    Activations stand in sheared coordinates (step, row), so that every neighbour is a plain slice: left and up-right
    are one step back, up two, up-left three (the last three a row earlier), and a ring of four steps is enough. The
    four neighbour taps of all layers are one matrix product, or one batch of them.
    """

    @torch.inference_mode()
    def __call__(self, context: Tensor, uniforms: Tensor) -> Tensor:
        N, H, W = uniforms.shape
        L, C = len(self.own), len(self.input_bias)
        steps, pad = W + 2 * (H - 1), 3
        zeros = uniforms.new_zeros
        ring = zeros(4, L, H + 1, N, C).unbind(0)
        x = zeros(steps + pad, H + 1, N)
        visible = zeros(steps, H, 1)
        threshold = zeros(steps, H, N)
        inputs = zeros(steps, H, N, C)
        conv = self._inputs(context)
        logit = torch.logit(uniforms).permute(1, 2, 0) - self.output_bias
        for i in range(H):
            threshold[2 * i : 2 * i + W, i], inputs[2 * i : 2 * i + W, i] = logit[i], conv[i]
            visible[2 * i : 2 * i + W : self.stride, i] = float(i % self.stride == 0)
        drawn = zeros(steps, H, N) if self.stride > 1 else x[pad:, 1:]
        for s in range(steps):
            low, high = max(0, (s - W + 2) // 2), min(H - 1, s // 2) + 1
            w, n, now = high - low, (high - low) * N, s + pad
            image = (x[now - 3, low:high], x[now - 2, low:high], x[now - 1, low:high], x[now - 1, low + 1 : high + 1])
            h = torch.addmm(inputs[s, low:high].view(n, C), torch.stack(image, -1).view(n, 4), self.image)
            taps, here = (), ()
            if L:
                up_left, up, last = (ring[(now - back) & 3] for back in (3, 2, 1))
                around = (up_left[:, low:high], up[:, low:high], last[:, low:high], last[:, low + 1 : high + 1])
                taps = self._from_neighbours(torch.cat(around, -1).view(L, n, 4 * C)).unbind(0)
                if low:
                    ring[now & 3][:, low].zero_()  # the row that has just run off the right edge
                here = ring[now & 3][:, low + 1 : high + 1].view(L, n, C).unbind(0)
            taken = self._drawn(h, taps, here, threshold[s, low:high].view(n))
            drawn[s, low:high] = taken.view(w, N)
            if self.stride > 1:
                torch.mul(drawn[s, low:high], visible[s, low:high], out=x[now, low + 1 : high + 1])
        rows = [drawn[2 * i : 2 * i + W, i] for i in range(H)]
        return torch.stack(rows).permute(2, 0, 1).unsqueeze(1).contiguous()


class CachedSampler(_Folded):
    """Pixel after pixel with cached activations, the idea of Fast PixelCNN++ (Ramachandran et al. 2017).

    The three taps of the row above are one product (or one batch) a row for all layers, the left tap one a pixel.
    """

    @torch.inference_mode()
    def __call__(self, context: Tensor, uniforms: Tensor) -> Tensor:
        N, H, W = uniforms.shape
        L, C = len(self.own), len(self.input_bias)
        row = torch.zeros(L, W + 2, N, C)  # inputs of every layer, overwritten from left to right
        slots = row.unbind(1)
        x = torch.zeros(H + 1, W + 2, N)
        left, conv = self.folded[:, 3 * C :], self._inputs(context)
        threshold = torch.logit(uniforms).permute(1, 2, 0) - self.output_bias
        drawn = torch.zeros(H, W, N)
        for i in range(H):
            above = torch.cat([row[:, :W], row[:, 1 : W + 1], row[:, 2:]], -1)
            taps = self._from_neighbours(above.view(L, W * N, 3 * C)).view(L, W, N, C).unbind(1)
            around = torch.stack([x[i, :W], x[i, 1 : W + 1], x[i, 2:]], -1)
            inputs = torch.matmul(around, self.image[:3]).add_(conv[i]).unbind(0)
            for j in range(W):
                h = torch.addmm(inputs[j], x[i + 1, j].unsqueeze(1), self.image[3:])
                layer_taps = torch.baddbmm(taps[j], slots[j], left).unbind(0) if L else ()
                drawn[i, j] = self._drawn(h, layer_taps, slots[j + 1].unbind(0), threshold[i, j])
                if i % self.stride == 0 and j % self.stride == 0:
                    x[i + 1, j + 1] = drawn[i, j]
        return drawn.permute(2, 0, 1).unsqueeze(1).contiguous()


@torch.inference_mode()
def sample_naive(
    params: PixelCNNParams, spec: PixelCNNSpec, logits: Callable[..., Tensor], context: Tensor, uniforms: Tensor
) -> Tensor:
    """One whole forward pass a pixel; `logits` is `reference.pixelcnn_logits`, compiled or not."""
    N, H, W = uniforms.shape
    x = uniforms.new_zeros(N, 1, H, W)
    for i in range(H):
        for j in range(W):
            logit = logits(x, context, params, spec)[:, 0, i, j]
            x[:, 0, i, j] = (uniforms[:, i, j] < torch.sigmoid(logit)).float()
    return x
