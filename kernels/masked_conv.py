"""Raster-causal 3x3 convolution fused with ELU, gain, bias and residual, and its gradients.

A program takes BLOCK positions of the flattened batch (pixels of images that follow each other) and GROUP channels of
the result: one input channel at one tap times a scalar weight, so 12 channels cost 12.
Neighbours come from L1. Weight gradients: each program sums over every so many blocks, torch adds the programs' sums.

Counted for an image of 28x28, 12 to 12 channels, mask B, all fused, on an H200 (4.3 TB/s copy, 67 TFLOP/s fp32):

    forward   x, residual, y: 113 kB, 26 ns; 784 x 720 multiply-adds = 1.13 MFLOP, 17 ns; ELU anew at each tap, 47k
              exponentials at 16 a cycle and multiprocessor, 11 ns. Bound by memory: floor 26 ns, 27 us for N = 1024
    dx        dy, x, dx: the same bytes and operations: floor 26 ns
    dweight   dy, x: 75 kB, 18 ns; 1.13 MFLOP on the tensor cores (64 x 16 tiles for 61 x 12; 3 products): 10 ns

sm_90: the loop over input channels has 240 FFMA to 20 loads of values and 60 of weights (4 positions a thread).
One launch forward, two launches and a few small torch kernels backward; no dependent steps beyond those.
"""

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.planes import elu, elu_slope, tap_shift, zeros
from vlae_fast.kernels.table import PRECISION, choose

GROUP = 12
"""Channels of the result that a program computes."""
TILE = 64
"""Weights, and 16 outputs, whose gradient a program sums."""


@triton.jit
def pixels(start, N, H, W, BLOCK: tl.constexpr):
    """Image, pixel, row and column of each of BLOCK positions from `start` on (int64), and whether there is one."""
    first = start // (H * W)
    rest = (start - first * (H * W)).to(tl.int32) + tl.arange(0, BLOCK)
    ahead = rest // (H * W)
    pixel = rest - ahead * (H * W)
    i = pixel // W
    n = first + ahead
    return n, pixel, i, pixel - i * W, n < N


@triton.jit
def at_tap(tap, i, j, inside, H, W, SIGN: tl.constexpr):
    """Whether the position that a tap reads (SIGN = -1: the opposite one) lies inside of the image."""
    row, column = i + SIGN * (tap // 3 - 1), j + SIGN * (tap % 3 - 1)
    return inside & (row >= 0) & (row < H) & (column >= 0) & (column < W)


@triton.jit(do_not_specialize=["N", "C", "K", "H", "W"])
def masked_conv3x3_forward_kernel(
    x, weight, bias, gain, residual, y, N, C, K, H, W, scale, TAPS: tl.constexpr, PRE_ELU: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = residual + scale * (gain * conv + bias)."""
    n, pixel, i, j, inside = pixels(tl.program_id(0).to(tl.int64) * BLOCK, N, H, W, BLOCK)
    group = tl.program_id(1) * GROUP
    acc = zeros(BLOCK, GROUP)
    for c in range(C):
        for tap in tl.static_range(TAPS):
            source = x + (n * C + c) * (H * W) + pixel + tap_shift(tap, W, 9)
            value = tl.load(source, mask=at_tap(tap, i, j, inside, H, W, 1), other=0.0)
            if PRE_ELU:
                value = elu(value)
            new = ()
            for k in tl.static_range(GROUP):
                to = group + k
                new = new + (
                    acc[k] + value * tl.load(weight + (to * C + c) * 9 + tap, mask=to < K, other=0.0),
                )  # fmt: skip
            acc = new
    for k in tl.static_range(GROUP):
        to = group + k
        value = acc[k]
        if gain is not None:
            value *= tl.load(gain + to, mask=to < K, other=0.0)
        value = scale * (value + tl.load(bias + to, mask=to < K, other=0.0))
        at = (n * K + to) * (H * W) + pixel
        if residual is not None:
            value += tl.load(residual + at, mask=inside & (to < K), other=0.0)
        tl.store(y + at, value, mask=inside & (to < K))


@triton.jit(do_not_specialize=["N", "C", "K", "H", "W"])
def masked_conv3x3_backward_input_kernel(
    dy, x, weight, gain, dx, N, C, K, H, W, scale, TAPS: tl.constexpr, PRE_ELU: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx: the convolution transposed, through the slope of ELU."""
    n, pixel, i, j, inside = pixels(tl.program_id(0).to(tl.int64) * BLOCK, N, H, W, BLOCK)
    group = tl.program_id(1) * GROUP
    acc = zeros(BLOCK, GROUP)
    for k in range(K):
        factor = scale
        if gain is not None:
            factor *= tl.load(gain + k)
        for tap in tl.static_range(TAPS):
            source = dy + (n * K + k) * (H * W) + pixel - tap_shift(tap, W, 9)
            value = factor * tl.load(source, mask=at_tap(tap, i, j, inside, H, W, -1), other=0.0)
            new = ()
            for c in tl.static_range(GROUP):
                to = group + c
                new = new + (
                    acc[c] + value * tl.load(weight + (k * C + to) * 9 + tap, mask=to < C, other=0.0),
                )  # fmt: skip
            acc = new
    for c in tl.static_range(GROUP):
        to = group + c
        at = (n * C + to) * (H * W) + pixel
        value = acc[c]
        if PRE_ELU:
            value *= elu_slope(elu(tl.load(x + at, mask=inside & (to < C), other=0.0)))
        tl.store(dx + at, value, mask=inside & (to < C))


@triton.jit(do_not_specialize=["N", "C", "K", "H", "W"])
def masked_conv3x3_backward_weight_kernel(
    dy, x, sums, N, C, K, H, W, TAPS: tl.constexpr, PRE_ELU: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """sums [programs, C * TAPS + 1, K]: x at each tap * dy, and dy, over every so many blocks of positions."""
    r = tl.program_id(1) * TILE + tl.arange(0, TILE)
    k = tl.program_id(2) * 16 + tl.arange(0, 16)
    c, tap = r // TAPS, r % TAPS
    rows = C * TAPS + 1
    total = tl.cast(N, tl.int64) * (H * W)
    acc = tl.zeros([TILE, 16], tl.float32)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    while start < total:
        n, pixel, i, j, inside = pixels(start, N, H, W, BLOCK)
        there = at_tap(tap[:, None], i[None, :], j[None, :], inside[None, :], H, W, 1)
        source = x + (n[None, :] * C + c[:, None]) * (H * W) + pixel[None, :] + tap_shift(tap, W, 9)[:, None]
        value = tl.load(source, mask=there & (c[:, None] < C), other=0.0)
        if PRE_ELU:
            value = elu(value)
        value = tl.where(r[:, None] == C * TAPS, 1.0, value)
        at = (n[:, None] * K + k[None, :]) * (H * W) + pixel[:, None]
        g = tl.load(dy + at, mask=inside[:, None] & (k[None, :] < K), other=0.0)
        acc = tl.dot(value, g, acc, input_precision=PRECISION)
        start += tl.num_programs(0).to(tl.int64) * BLOCK
    to = sums + (tl.program_id(0).to(tl.int64) * rows + r[:, None]) * K + k[None, :]
    tl.store(to, acc, mask=(r[:, None] < rows) & (k[None, :] < K))


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for, with 12 channels: everything fused, and nothing."""
    found = []
    for mask, taps, fused in (("A", 4, False), ("B", 5, True)):
        common = {"TAPS": taps, "PRE_ELU": fused}
        launch, launch_weight = (choose(name, 12, architecture) for name in ("masked_conv3x3", "masked_conv3x3_weight"))
        absent = {} if fused else {"gain": None}
        output = common | absent | {"GROUP": GROUP, "BLOCK": launch.block}
        weight = common | {"TILE": TILE, "BLOCK": launch_weight.block, "PRECISION": PRECISION}
        forward = output if fused else output | {"residual": None}
        found += [
            Variant(f"masked_conv3x3 {mask}", masked_conv3x3_forward_kernel, forward, launch.num_warps),
            Variant(f"masked_conv3x3 dx {mask}", masked_conv3x3_backward_input_kernel, output, launch.num_warps),
            Variant(
                f"masked_conv3x3 dweight {mask}", masked_conv3x3_backward_weight_kernel, weight, launch_weight.num_warps
            ),
        ]
    return found
