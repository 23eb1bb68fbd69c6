"""The PixelCNN stack, forward: one launch, a program takes an image (or several small ones) through all layers.

An image is one block of positions where it fits (28x28: 29 x 29 of 1,024), else a few in raster order, one after
another through the whole stack: the taps reach back alone. The residual stream stays in registers; a convolution
stores elu(f), waits, and loads the taps. Programs stay for many images, weights are packed once for each.

Counted for an image of 28x28 with the preset "paper" (C = 12, K = 4, L = 12 in blocks of two, P = 4), on an H200
(4.3 TB/s copy, 67 TFLOP/s fp32):

    bytes            x 3.1 kB, context 12.5, logits 3.1: 18.8 kB, 4.4 ns in HBM. Exchange: 20 x 12 values a position,
                     written and read back, 1.5 MB; 132 programs use 44 kB each, so in L1 and L2: 0.27 us at 5.5 TB/s
    operations       784 x 10,284 multiply-adds = 16.1 MFLOP, 241 ns; 198k exponentials, 48 ns
    dependent steps  21 convolutions with two barriers each; the 12 of 3x3 wait for L2
    instructions     sm_90: the loop of a 3x3 layer has 240 FFMA to 20 loads of values and 30 of pairs of weights. With
                     29 x 29 positions in 1,024 lanes, ELU and loads 124k cycles an image and multiprocessor: 63 us

So floors: 241 ns an image (N = 1024: 247 us), by the instructions 490 us; N = 1: 63 us. Not measured yet.

Why exchange, not a halo computed anew: bands of 14 rows would compute 9% more, bands of 7 rows 27%; an exchange costs
8 bytes a value that 12 to 60 multiply-adds use, and hides behind them. A batch of 132 images fills the GPU already.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.planes import clear_edges, convolve, elu, pack_weights, store_planes, wide, zeros
from vlae_fast.kernels.table import choose


@triton.jit
def positions(start, n0, N, H, W, G, BLOCK: tl.constexpr):
    """Which image, row and column each of BLOCK positions from `start` on is, and whether it is one."""
    at = start + tl.arange(0, BLOCK)
    image = at // ((H + 1) * (W + 1))
    rest = at - image * ((H + 1) * (W + 1))
    i = rest // (W + 1)
    j = rest - i * (W + 1)
    inside = (image < G) & (n0 + image < N) & (i < H) & (j < W)
    return wide(n0) + image, i, j, inside


@triton.jit
def stage_inputs(
    planes, plane, x, context, n0, N, H, W, G, blocks, visible_stride, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Lays the visible pixels and the context out in 1 + K planes."""
    tl.debug_barrier()
    for block in range(blocks):
        n, i, j, inside = positions(block * BLOCK, n0, N, H, W, G, BLOCK)
        pixel = i * W + j
        to = planes + block * BLOCK + tl.arange(0, BLOCK)
        visible = inside & (i % visible_stride == 0) & (j % visible_stride == 0)
        tl.store(to, tl.load(x + n * (H * W) + pixel, mask=visible, other=0.0))
        for k in range(K):
            value = tl.load(context + (n * K + k) * (H * W) + pixel, mask=inside, other=0.0)
            tl.store(to + (1 + k) * plane, value)
    tl.debug_barrier()


@triton.jit
def affine(acc, gain, bias, C: tl.constexpr):
    """gain * acc + bias, channel by channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (acc[c] * tl.load(gain + c) + tl.load(bias + c),)
    return new


@triton.jit
def add_bias(acc, bias, C: tl.constexpr):
    """acc + bias, channel by channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (acc[c] + tl.load(bias + c),)
    return new


@triton.jit
def add_scaled(h, scale, f, C: tl.constexpr):
    """h + scale * f, channel by channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (h[c] + scale * f[c],)
    return new


@triton.jit
def activated(values, C: tl.constexpr):
    """ELU of every channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (elu(values[c]),)
    return new


@triton.jit
def select(condition, values, others, C: tl.constexpr):
    """`values` where the condition holds, else `others`, channel by channel."""
    new = ()
    for c in tl.static_range(C):
        new = new + (tl.where(condition, values[c], others[c]),)
    return new


@triton.jit
def load_stage(row):
    """(taps, index, closes) of a row of `PixelCNNSpec.stages`."""
    return tl.load(row), tl.load(row + 1), tl.load(row + 2) != 0


@triton.jit
def pack_forward(
    packed, image_weight, context_weight, hidden_weight, pointwise_weight, shared, P, C: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Packs image, context, `shared` hidden and pointwise weights; returns where the latter three begin."""
    EVEN: tl.constexpr = C + C % 2
    context_at = packed + 4 * EVEN
    hidden_at = context_at + 9 * K * EVEN
    pointwise_at = hidden_at + shared * (5 * C * EVEN)
    pack_weights(packed, image_weight, image_weight, 1, 0, 9, 9, 1, C, 4, False, BLOCK)
    if K > 0:
        pack_weights(context_at, context_weight, context_weight, 1, 0, 9 * K, 9, K, C, 9, False, BLOCK)
    pack_weights(hidden_at, hidden_weight, hidden_weight, shared, 9 * C * C, 9 * C, 9, C, C, 5, False, BLOCK)
    pack_weights(pointwise_at, pointwise_weight, pointwise_weight, 2 * P, C * C, C, 1, C, C, 1, False, BLOCK)
    return context_at, hidden_at, pointwise_at


@triton.jit
def run_stack(
    inputs, e, plane, row, inside, packed, context_at, hidden_at, pointwise_at, input_bias, hidden_gain, hidden_bias,
    pointwise_bias, stages, n_stages, shared, residual_scale, set_stride, C: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The residual stream behind the last stage, for one block of positions; all pointers point to the positions.

    Stage s reads set s of the planes `e`.
    """
    EVEN: tl.constexpr = C + C % 2
    acc = convolve(zeros(BLOCK, EVEN), inputs, plane, row, packed, 1, C, 4, 1)
    acc = convolve(acc, inputs + plane, plane, row, context_at, K, C, 9, 1)
    h = add_bias(acc, input_bias, C)
    f = h
    for stage in range(n_stages):
        taps, index, closes = load_stage(stages + 3 * stage)
        e_stage = e + stage * set_stride
        store_planes(e_stage, plane, activated(f, C), inside, C)
        if taps == 5:
            acc = convolve(
                zeros(BLOCK, EVEN), e_stage, plane, row, hidden_at + index % shared * (5 * C * EVEN), C, C, 5, 1
            )  # fmt: skip
            f = affine(acc, hidden_gain + index * C, hidden_bias + index * C, C)
        else:
            acc = convolve(zeros(BLOCK, EVEN), e_stage, plane, row, pointwise_at + index * (C * EVEN), C, C, 1, 1)
            f = add_bias(acc, pointwise_bias + index * C, C)
        h = select(closes, add_scaled(h, residual_scale, f, C), h, C)
        f = select(closes, h, f, C)
    return h


@triton.jit
def output_logits(e, output_weight, output_bias, BLOCK: tl.constexpr, C: tl.constexpr):
    """Logits of a block from its last activations."""
    logits = tl.zeros([BLOCK], tl.float32) + tl.load(output_bias)
    for c in tl.static_range(C):
        logits += tl.load(output_weight + c) * e[c]
    return logits


@triton.jit
def softplus(x):
    """log(1 + exp(x))."""
    return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def sum_image(values, count):
    """Sum of `count` values, always in the same order: it must not depend on where in a batch an image stands."""
    total = tl.zeros([128], tl.float32)
    for start in range(0, count, 128):
        at = start + tl.arange(0, 128)
        total += tl.load(values + at, mask=at < count, other=0.0)
    return tl.sum(total)


SIZES = [
    "N",
    "H",
    "W",
    "G",
    "L",
    "P",
    "shared",
    "blocks",
    "plane",
    "set_stride",
    "visible_stride",
    "program_stride",
    "begin",
]


@triton.jit(do_not_specialize=SIZES)
def pixelcnn_forward_kernel(
    x, context, image_weight, context_weight, input_bias, hidden_weight, hidden_gain, hidden_bias, pointwise_weight,
    pointwise_bias, output_weight, output_bias, stages, result, scratch, begin, N, H, W, G, L, P, shared, blocks, plane,
    set_stride, visible_stride, program_stride, residual_scale, C: tl.constexpr, K: tl.constexpr,
    RESULT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """RESULT "logits" [N, 1, H, W], "log_prob" [N], or nothing but the activations in scratch memory, "keep".

    Takes the images from `begin` on; those that keep, G a program. Scratch memory of a program, in planes: inputs
    1 + K, terms of the likelihood 1, activations C for each convolution and for the output; behind them weights.
    """
    set_stride = wide(set_stride)
    row = W + 1
    front = row + 1
    KEEP: tl.constexpr = RESULT == "keep"
    inputs = scratch + wide(tl.program_id(0)) * program_stride
    terms = inputs + (1 + K) * plane + front
    e = inputs + (2 + K) * plane + front
    e_last = e + (L + 2 * P) * set_stride
    packed = e_last - front + C * plane
    context_at, hidden_at, pointwise_at = pack_forward(
        packed, image_weight, context_weight, hidden_weight, pointwise_weight, shared, P, C, K, BLOCK
    )
    clear_edges(inputs, 2 + K + C + (L + 2 * P) * (set_stride // plane), plane, front, blocks * BLOCK)
    end = N
    if KEEP:
        end = tl.minimum(N, begin + tl.num_programs(0) * G)
    for n0 in range(begin + tl.program_id(0) * G, end, tl.num_programs(0) * G):
        stage_inputs(inputs + front, plane, x, context, n0, N, H, W, G, blocks, visible_stride, K, BLOCK)
        for block in range(blocks):
            n, i, j, inside = positions(block * BLOCK, n0, N, H, W, G, BLOCK)
            at = block * BLOCK + tl.arange(0, BLOCK)
            h = run_stack(
                inputs + front + at, e + at, plane, row, inside, packed, context_at, hidden_at, pointwise_at,
                input_bias, hidden_gain, hidden_bias, pointwise_bias, stages, L + 2 * P, shared, residual_scale,
                set_stride, C, K, BLOCK,
            )  # fmt: skip
            a = activated(h, C)
            if KEEP:
                store_planes(e_last + at, plane, a, inside, C)
            else:
                logits = output_logits(a, output_weight, output_bias, BLOCK, C)
                pixel = n * (H * W) + i * W + j
                if RESULT == "log_prob":
                    value = tl.load(x + pixel, mask=inside, other=0.0)
                    store_planes(terms + at, plane, (value * logits - softplus(logits),), inside, 1)
                else:
                    tl.store(result + pixel, logits, mask=inside)
        if RESULT == "log_prob":
            for g in range(tl.minimum(G, N - n0)):
                tl.store(result + wide(n0) + g, sum_image(terms + g * (H + 1) * row, H * row))


class Layout(NamedTuple):
    """Sizes of the kernels' scratch memory, and how images share it. The kernels' docstrings say what stands where."""

    group: int
    """Images that a program takes at once (G)."""
    blocks: int
    plane: int
    """Floats."""
    set_stride: int
    """Floats between the activations, and the gradients, of two stages: 0 where one set is enough."""
    weights: int
    """Floats that packed weights take."""
    floats: int
    """Of a program."""
    rows: int
    """Of C floats: the sums of a program's weight gradients."""


def layout(block: int, backward: bool, H: int, W: int, C: int, K: int, L: int, P: int, S: int) -> Layout:
    """For blocks of so many positions; `backward`: what the kernels of `pixelcnn_backward` need besides."""
    area = (H + 1) * (W + 1)
    group = max(1, block // area)
    blocks = triton.cdiv(group * area, block)
    plane = triton.cdiv(2 * (W + 2) + blocks * block, 4) * 4
    # What a block needs of another one must be kept: each stage's activations, and for gradients all of them.
    set_stride = C * plane if blocks > 1 or backward else 0
    even = C + C % 2
    floats = (2 + K + C) * plane + (L + 2 * P) * set_stride
    weights = (4 + 9 * K + 5 * S * C + 2 * P * C) * even
    if backward:
        floats += 2 * C * plane + (L + 2 * P) * set_stride
        weights = max(weights, (5 * L + 2 * P) * C * even + C * (8 + 9 * (K + K % 2)))
    floats = triton.cdiv(floats + weights, 32) * 32
    rows = 5 + 9 * K + 1 + L * (5 * C + 1) + 2 * P * (C + 1) + C + 1
    return Layout(group, blocks, plane, set_stride, weights, floats, rows)


PAPER = {"C": 12, "K": 4}
"""What the kernels are compiled for with the preset "paper"; layers, blocks and wiring come as numbers."""


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for with the preset "paper"."""
    found = []
    for result in ("logits", "log_prob", "keep"):
        launch = choose("pixelcnn", 12, architecture)
        constants = PAPER | {"RESULT": result, "BLOCK": launch.block}
        types = {"stages": "*i32"}
        found.append(Variant(f"pixelcnn {result}", pixelcnn_forward_kernel, constants, launch.num_warps, types))
    return found
