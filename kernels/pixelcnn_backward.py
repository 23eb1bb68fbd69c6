"""Gradients of the PixelCNN stack: activations are computed anew, weight gradients are summed a program at a time.

Two launches for as many images as there are programs: the forward kernel leaves every convolution's activations in
scratch memory, then this kernel walks back through the layers. For each layer it stores the gradient g behind it, adds
g times the activations at the taps to the program's own sums (matrix products of 64 weights x 16 outputs), and
convolves g with the transposed weights. Programs add in a fixed order, so two runs give the same bits; no atomics.

Counted for an image of 28x28 with the preset "paper", on an H200 (4.3 TB/s copy, 67 TFLOP/s fp32):

    operations       three times the forward pass: 48.4 MFLOP; a third of it, on the tensor cores (TF32, 3 products,
                     64 x 16 tiles for 61 x 12), takes 177 ns, the rest 481 ns; 198k exponentials, 48 ns
    bytes            inputs, dx, dcontext: 34 kB, 8 ns. Activations: 21 x 12 x 4 bytes a position, 0.85 MB, and as much
                     of gradients, each written once and read twice. 132 programs need 300 MB, so this goes through HBM
                     in part: 5.1 MB, 1.2 us at worst
    dependent steps  21 forward; 21 back with two barriers and, for each 16 positions, one product behind two more

So the floor is 0.66 us an image by operations (N = 1024: 0.67 ms), 1.2 us by memory. Not measured yet.
"""

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.pixelcnn import PAPER, SIZES, add_scaled, load_stage, output_logits, positions, select
from vlae_fast.kernels.planes import (
    clear,
    convolve,
    correlate,
    elu_slope,
    load_planes,
    pack_weights,
    store_planes,
    wide,
    zeros,
)
from vlae_fast.kernels.table import DEPTH, PRECISION, choose


@triton.jit
def scaled(values, factor, C: tl.constexpr):
    """factor * every channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (factor * values[c],)
    return new


@triton.jit
def through_elu(acc, e, plane, C: tl.constexpr):
    """acc * slope of ELU, where e points to ELU's values."""
    new = ()
    for c in tl.static_range(C):
        new = new + (acc[c] * elu_slope(tl.load(e + c * plane)),)
    return new


@triton.jit
def layer_backward(
    g, e, gradients, sums, plane, row, start, inside, packed, C: tl.constexpr, TAPS: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient before ELU and convolution, given g behind them; adds the weights' gradients to `sums`.

    The block begins at position `start` of the planes `e` and `gradients`.
    """
    at = start + tl.arange(0, BLOCK)
    store_planes(gradients + at, plane, g, inside, C)
    correlate(sums, e + start, gradients + start, plane, row, C, C, TAPS, C, BLOCK, DEPTH, PRECISION)
    acc = convolve(zeros(BLOCK, C + C % 2), gradients + at, plane, row, packed, C, C, TAPS, -1)
    return through_elu(acc, e + at, plane, C)


@triton.jit(do_not_specialize=[*SIZES, "gradient_stride"])
def pixelcnn_backward_kernel(
    x, image_weight, context_weight, hidden_weight, hidden_gain, pointwise_weight, output_weight, output_bias,
    stages, upstream, dx, dcontext, sums, scratch, begin, N, H, W, G, L, P, shared, blocks, plane, set_stride,
    visible_stride, program_stride, gradient_stride, residual_scale, C: tl.constexpr, K: tl.constexpr,
    RESULT: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, dcontext and, added to each program's `sums`, the weights' gradients; `upstream`: dlogits or dlog_prob.

    Follows `pixelcnn_forward_kernel` with KEEP on the same images and scratch memory.
    """
    EVEN: tl.constexpr = C + C % 2
    set_stride, gradient_stride = wide(set_stride), wide(gradient_stride)
    row = W + 1
    front = row + 1
    n0 = begin + tl.program_id(0) * G
    inputs = scratch + wide(tl.program_id(0)) * program_stride
    e = inputs + (2 + K) * plane + front
    e_last = e + (L + 2 * P) * set_stride
    dh_planes = e_last + C * plane
    gradients = dh_planes + C * plane
    hidden_at = gradients - front + C * plane + (L + 2 * P) * gradient_stride
    pointwise_at = hidden_at + L * (5 * C * EVEN)
    image_at = pointwise_at + 2 * P * (C * EVEN)
    context_at = image_at + C * 4 * 2
    clear(dh_planes - front, 2 * C * plane + (L + 2 * P) * gradient_stride, BLOCK)
    hidden_stride = tl.where(shared == 1, 0, 9 * C * C)
    pack_weights(hidden_at, hidden_weight, hidden_gain, L, hidden_stride, 9, 9 * C, C, C, 5, True, BLOCK)
    pack_weights(pointwise_at, pointwise_weight, pointwise_weight, 2 * P, C * C, 1, C, C, C, 1, False, BLOCK)
    pack_weights(image_at, image_weight, image_weight, 1, 0, 9, 9, C, 1, 4, False, BLOCK)
    if K > 0:
        pack_weights(context_at, context_weight, context_weight, 1, 0, 9, 9 * K, C, K, 9, False, BLOCK)
    context_rows = 5
    hidden_rows = context_rows + 9 * K + 1
    pointwise_rows = hidden_rows + L * (5 * C + 1)
    output_rows = pointwise_rows + 2 * P * (C + 1)
    sums += wide(tl.program_id(0)) * ((output_rows + C + 1) * C)

    for reversed_block in range(blocks):
        start = (blocks - 1 - reversed_block) * BLOCK
        at = start + tl.arange(0, BLOCK)
        n, i, j, inside = positions(start, n0, N, H, W, G, BLOCK)
        pixel = n * (H * W) + i * W + j
        a = load_planes(e_last + at, plane, C)
        if RESULT == "log_prob":
            logits = output_logits(a, output_weight, output_bias, BLOCK, C)
            dlog_prob = tl.load(upstream + n, mask=inside, other=0.0)
            dlogit = dlog_prob * (tl.load(x + pixel, mask=inside, other=0.0) - tl.sigmoid(logits))
            tl.store(dx + pixel, dlog_prob * logits, mask=inside)
        else:
            dlogit = tl.load(upstream + pixel, mask=inside, other=0.0)
        store_planes(gradients + at, plane, (dlogit,), inside, 1)
        correlate(
            sums + output_rows * C, e_last + start, gradients + start, plane, row, C, 1, 1, C, BLOCK, DEPTH, PRECISION
        )  # fmt: skip
        dh = ()
        for c in tl.static_range(C):
            dh = dh + (tl.load(output_weight + c) * dlogit * elu_slope(a[c]),)
        g = dh
        for reversed_stage in range(L + 2 * P):
            stage = L + 2 * P - 1 - reversed_stage
            taps, index, closes = load_stage(stages + 3 * stage)
            g = select(closes, scaled(dh, residual_scale, C), g, C)
            e_stage, gradient = e + stage * set_stride, gradients + (1 + stage) * gradient_stride
            if taps == 5:
                g = layer_backward(
                    g, e_stage, gradient, sums + (hidden_rows + index * (5 * C + 1)) * C, plane, row, start, inside,
                    hidden_at + index * (5 * C * EVEN), C, 5, BLOCK, DEPTH, PRECISION,
                )  # fmt: skip
            else:
                g = layer_backward(
                    g, e_stage, gradient, sums + (pointwise_rows + index * (C + 1)) * C, plane, row, start, inside,
                    pointwise_at + index * (C * EVEN), C, 1, BLOCK, DEPTH, PRECISION,
                )  # fmt: skip
            opens = tl.load(stages + 3 * stage - 1, mask=stage > 0, other=1) != 0  # what stands before it closes
            dh = select(opens, add_scaled(dh, 1.0, g, C), dh, C)
        store_planes(dh_planes + at, plane, dh, inside, C)
        correlate(
            sums, inputs + front + start, dh_planes + start, plane, row, 1, C, 4, C, BLOCK, DEPTH, PRECISION
        )  # fmt: skip
        correlate(
            sums + context_rows * C, inputs + plane + front + start, dh_planes + start, plane, row, K, C, 9, C, BLOCK,
            DEPTH, PRECISION,
        )  # fmt: skip

    for block in range(blocks):
        at = block * BLOCK + tl.arange(0, BLOCK)
        n, i, j, inside = positions(block * BLOCK, n0, N, H, W, G, BLOCK)
        pixel = i * W + j
        acc = convolve(zeros(BLOCK, 2), dh_planes + at, plane, row, image_at, C, 1, 4, -1)
        visible = (i % visible_stride == 0) & (j % visible_stride == 0)
        dpixel = tl.where(visible, acc[0], 0.0)
        if RESULT == "log_prob":
            dpixel += tl.load(dx + n * (H * W) + pixel, mask=inside, other=0.0)
        tl.store(dx + n * (H * W) + pixel, dpixel, mask=inside)
        acc = convolve(zeros(BLOCK, K + K % 2), dh_planes + at, plane, row, context_at, C, K, 9, -1)
        for k in tl.static_range(K):
            tl.store(dcontext + (n * K + k) * (H * W) + pixel, acc[k], mask=inside)


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for with the preset "paper"."""
    launch = choose("pixelcnn_backward", 12, architecture)
    options = PAPER | {"BLOCK": launch.block, "DEPTH": DEPTH, "PRECISION": PRECISION}
    kernel, types = pixelcnn_backward_kernel, {"stages": "*i32"}
    return [
        Variant(f"pixelcnn {kind} backward", kernel, options | {"RESULT": kind}, launch.num_warps, types)
        for kind in ("logits", "log_prob")
    ]
