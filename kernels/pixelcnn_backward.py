"""Gradients of the PixelCNN stack: activations are computed anew, weight gradients are summed a program at a time.

Three launches for as many images as there are programs: the forward kernel leaves every convolution's activations in
scratch memory; the next walks back through the layers, stores the gradient g behind each and convolves it with the
transposed weights; the last adds g times the activations at the taps to the program's own sums (matrix products of 64
weights x 16 outputs), which four small programs share, so that three of them hide each other's waits. Programs add in a
fixed order, so two runs give the same bits; no atomics.

Counted for an image of 28x28 with the preset "paper", on an H200 (4.3 TB/s copy, 67 TFLOP/s fp32):

    operations       three times the forward pass: 48.4 MFLOP; a third of it, on the tensor cores (TF32, 3 products,
                     64 x 16 tiles for 61 x 12), takes 177 ns, the rest 481 ns; 198k exponentials, 48 ns
    bytes            inputs, dx, dcontext: 34 kB, 8 ns. Activations: 21 x 12 x 4 bytes a position, 0.85 MB, and as much
                     of gradients, each written once and read twice. 132 programs need 300 MB, so this goes through HBM
                     in part: 5.1 MB, 1.2 us at worst
    dependent steps  21 forward; 21 back with two barriers
    instructions     sm_90, cycles of a multiprocessor: 171k to keep the activations, 171k to walk back (half of either
                     FFMA), 168k for the sums, of which 101k the tensor cores

So the floor is 0.66 us an image by operations (N = 1024: 0.67 ms), 1.2 us by memory, by the instructions 2.3 us. Not
measured yet.
"""

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.pixelcnn import PAPER, SIZES, add_scaled, load_stage, output_logits, positions, select
from vlae_fast.kernels.planes import (
    clear_edges,
    convolve,
    correlate,
    elu_slope,
    load_planes,
    pack_weights,
    store_planes,
    wide,
    zeros,
)
from vlae_fast.kernels.table import choose


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
    g, e, gradients, plane, row, inside, packed, C: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The gradient before ELU and convolution, given g behind them; `gradients` keeps g."""
    store_planes(gradients, plane, g, inside, C)
    acc = convolve(zeros(BLOCK, C + C % 2), gradients, plane, row, packed, C, C, TAPS, -1)
    return through_elu(acc, e, plane, C)


@triton.jit(do_not_specialize=SIZES)
def pixelcnn_backward_kernel(
    x, image_weight, context_weight, hidden_weight, hidden_gain, pointwise_weight, output_weight, output_bias,
    stages, upstream, dx, dcontext, scratch, begin, N, H, W, G, L, P, shared, blocks, plane, set_stride,
    visible_stride, program_stride, residual_scale, C: tl.constexpr, K: tl.constexpr, RESULT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """dx, dcontext and the gradient behind every convolution, kept; `upstream`: dlogits or dlog_prob.

    Follows `pixelcnn_forward_kernel` with KEEP on the same images and scratch memory. Behind its activations stand C
    planes each of the input layer's gradients, of the output's (one is used) and of each stage's; then weights.
    """
    EVEN: tl.constexpr = C + C % 2
    set_stride = wide(set_stride)
    row = W + 1
    front = row + 1
    n0 = begin + tl.program_id(0) * G
    inputs = scratch + wide(tl.program_id(0)) * program_stride
    e = inputs + (2 + K) * plane + front
    e_last = e + (L + 2 * P) * set_stride
    dh_planes = e_last + C * plane
    gradients = dh_planes + C * plane
    hidden_at = gradients - front + C * plane + (L + 2 * P) * set_stride
    pointwise_at = hidden_at + L * (5 * C * EVEN)
    image_at = pointwise_at + 2 * P * (C * EVEN)
    context_at = image_at + C * 4 * 2
    clear_edges(dh_planes - front, C * (2 + L + 2 * P), plane, front, blocks * BLOCK)
    hidden_stride = tl.where(shared == 1, 0, 9 * C * C)
    pack_weights(hidden_at, hidden_weight, hidden_gain, L, hidden_stride, 9, 9 * C, C, C, 5, True, BLOCK)
    pack_weights(pointwise_at, pointwise_weight, pointwise_weight, 2 * P, C * C, 1, C, C, C, 1, False, BLOCK)
    pack_weights(image_at, image_weight, image_weight, 1, 0, 9, 9, C, 1, 4, False, BLOCK)
    if K > 0:
        pack_weights(context_at, context_weight, context_weight, 1, 0, 9, 9 * K, C, K, 9, False, BLOCK)

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
        dh = ()
        for c in tl.static_range(C):
            dh = dh + (tl.load(output_weight + c) * dlogit * elu_slope(a[c]),)
        g = dh
        for reversed_stage in range(L + 2 * P):
            stage = L + 2 * P - 1 - reversed_stage
            taps, index, closes = load_stage(stages + 3 * stage)
            g = select(closes, scaled(dh, residual_scale, C), g, C)
            e_stage, gradient = e + stage * set_stride + at, gradients + C * plane + stage * set_stride + at
            if taps == 5:
                weights = hidden_at + index * (5 * C * EVEN)
                g = layer_backward(g, e_stage, gradient, plane, row, inside, weights, C, 5, BLOCK)
            else:
                weights = pointwise_at + index * (C * EVEN)
                g = layer_backward(g, e_stage, gradient, plane, row, inside, weights, C, 1, BLOCK)
            opens = tl.load(stages + 3 * stage - 1, mask=stage > 0, other=1) != 0  # what stands before it closes
            dh = select(opens, add_scaled(dh, 1.0, g, C), dh, C)
        store_planes(dh_planes + at, plane, dh, inside, C)

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


@triton.jit(do_not_specialize=["L", "P", "row", "count", "plane", "set_stride", "program_stride"])
def pixelcnn_backward_weights_kernel(
    stages, sums, scratch, L, P, row, count, plane, set_stride, program_stride, C: tl.constexpr, K: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Adds the weights' gradients over the `count` positions of a program of the other kernels to its `sums`.

    Follows `pixelcnn_backward_kernel` on the same scratch memory. Programs (., s) take each so many stages, from s on.
    """
    set_stride = wide(set_stride)
    inputs = scratch + wide(tl.program_id(0)) * program_stride + row + 1
    e = inputs + (2 + K) * plane
    e_last = e + (L + 2 * P) * set_stride
    dh_planes = e_last + C * plane
    gradients = dh_planes + C * plane
    context_rows = 5
    hidden_rows = context_rows + 9 * K + 1
    pointwise_rows = hidden_rows + L * (5 * C + 1)
    output_rows = pointwise_rows + 2 * P * (C + 1)
    sums += wide(tl.program_id(0)) * ((output_rows + C + 1) * C)
    for stage in range(tl.program_id(1), L + 2 * P + 3, tl.num_programs(1)):
        e_stage, gradient = e + stage * set_stride, gradients + C * plane + stage * set_stride
        if stage < L + 2 * P:
            taps, index, _ = load_stage(stages + 3 * stage)
            if taps == 5:
                to = sums + (hidden_rows + index * (5 * C + 1)) * C
                correlate(to, e_stage, gradient, plane, row, count, C, C, 5, C, DEPTH)
            else:
                to = sums + (pointwise_rows + index * (C + 1)) * C
                correlate(to, e_stage, gradient, plane, row, count, C, C, 1, C, DEPTH)
        elif stage == L + 2 * P:
            correlate(sums + output_rows * C, e_last, gradients, plane, row, count, C, 1, 1, C, DEPTH)
        elif stage == L + 2 * P + 1:
            correlate(sums, inputs, dh_planes, plane, row, count, 1, C, 4, C, DEPTH)
        elif K > 0:
            correlate(sums + context_rows * C, inputs + plane, dh_planes, plane, row, count, K, C, 9, C, DEPTH)


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for with the preset "paper"."""
    launch, weights = (choose(name, 12, architecture) for name in ("pixelcnn", "pixelcnn_weights"))
    types = {"stages": "*i32"}
    return [
        *(
            Variant(
                f"pixelcnn {kind} backward", pixelcnn_backward_kernel, PAPER | {"RESULT": kind, "BLOCK": launch.block},
                launch.num_warps, types,
            )
            for kind in ("logits", "log_prob")
        ),
        Variant(
            "pixelcnn backward weights", pixelcnn_backward_weights_kernel, PAPER | {"DEPTH": weights.block},
            weights.num_warps, types,
        ),
    ]  # fmt: skip
