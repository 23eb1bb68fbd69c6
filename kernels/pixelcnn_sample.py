"""Drawing from a PixelCNN, the whole batch in one launch; every activation is computed once.

Pixels of equal `column + 2 * row` are independent given the earlier ones (see csrc/pixelcnn_sample.cpp). A lane stands
for one row of one image: with G images and R rows at a time, lane r * G + g draws the rows r, r+R, ... of image g, one
pixel a step, two steps behind lane r - 1, and begins its next row T = max(W + 1, 2R) steps after the last. What a layer
needs of its neighbours is then

    left                     the same lane one step ago
    up-right, up, up-left    the lane of the row above, one, two, three steps ago; for r = 0 that is r = R - 1, T - 2R
                             steps earlier still

so a ring of T - 2R + 4 steps is enough. Lanes between two rows (at least one step) leave zeros there: the zero padding
of the convolutions. Ring and exchange between the threads are global memory that the launcher provides, small enough
for the caches.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Tile(NamedTuple):
    """How a batch is cut into programs; what is drawn does not depend on it, bit for bit."""

    least_batch: int
    images: int
    """G, a power of two."""
    most_rows: int
    """R is at most this."""
    lanes_a_warp: int
    """Below 32: a load that has as many elements as there are threads would decide their layout by itself."""


TILES = (
    Tile(1, images=1, most_rows=64, lanes_a_warp=4),
    Tile(256, images=1, most_rows=32, lanes_a_warp=8),
    Tile(2048, images=4, most_rows=8, lanes_a_warp=16),
    Tile(16384, images=8, most_rows=4, lanes_a_warp=16),
)
"""The last that the batch is large enough for. Reasoned from the count above, not measured yet."""
BLOCK_C = 16
"""Channels of a tile."""

CONV, POINTWISE = tl.constexpr(0), tl.constexpr(2)
"""What a stage is: one of these, + 1 where it closes its residual block."""


@triton.jit
def _elu(x):
    return tl.where(x > 0, x, tl.exp(x) - 1)


@triton.jit
def _runs(offsets, IMAGES: tl.constexpr):
    """Tells the compiler that the offsets of a row's lanes follow one another."""
    RUN: tl.constexpr = 4 if IMAGES > 4 else IMAGES
    return tl.max_contiguous(tl.multiple_of(offsets, RUN), RUN)


@triton.jit
def _accumulate(acc, source, weight, CHANNELS: tl.constexpr, LANES: tl.constexpr, columns, C: tl.constexpr):
    """acc[lane, c] + sum over k of source[k, lane] * weight[k, c]; the sum runs in this order whatever the tile."""
    for k in tl.range(0, CHANNELS, loop_unroll_factor=4):
        acc += tl.load(source + k * LANES) * tl.load(weight + k * C, mask=columns)
    return acc


@triton.jit(do_not_specialize=["N", "H", "W", "K", "L", "n_stages", "weight_step", "visible_stride", "R", "T"])
def pixelcnn_sample_kernel(
    context_ptr,  # [N, K, H, W]
    uniforms_ptr,  # [N, H, W]
    given_ptr,  # [N, H, W] int8, or None
    x_ptr,  # [N, H, W], written
    scratch_ptr,  # [programs, ring (T - 2R + 4)(L C + 1) + 4 C, LANES]
    stages_ptr,  # [n_stages, 2] int32: what (CONV, ...), and the layer or 2 * block + (first, second)
    image_weight_ptr,  # [3, 3, C]
    context_weight_ptr,  # [K, 3, 3, C out]
    input_bias_ptr,  # [C]
    hidden_weight_ptr,  # [S, 3, 3, C in, C out]
    hidden_gain_ptr,  # [L, C]
    hidden_bias_ptr,  # [L, C]
    pointwise_weight_ptr,  # [P, 2, C in, C out]
    pointwise_bias_ptr,  # [P, 2, C]
    output_weight_ptr,  # [C]
    output_bias_ptr,  # [1]
    residual_scale,
    temperature,
    N,
    H,
    W,
    K,
    L,
    n_stages,
    weight_step,  # from one layer's hidden weight to the next: 0 if they are tied
    visible_stride,
    R,
    T,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    IMAGES: tl.constexpr,
    LANES: tl.constexpr,
):
    """Program p draws the blocks p, p + programs, ... of IMAGES images."""
    lanes, block_c = tl.arange(0, LANES), tl.arange(0, BLOCK_C)[None, :]
    r, g = lanes // IMAGES, lanes % IMAGES
    above = tl.where(r == 0, lanes + (R - 1) * IMAGES, lanes - IMAGES)
    delay = T - 2 * R
    lag = tl.where(r == 0, delay, 0)
    depth, slot = delay + 4, (L * C + 1) * LANES  # floats of a step: the inputs of the L layers, then the image
    image = L * C * LANES
    ring = scratch_ptr + tl.program_id(0).to(tl.int64) * (depth * slot + (4 * C + BLOCK_C) * LANES)
    local = ring + depth * slot  # inputs of the stages that no neighbour needs, two by turns, then h, two by turns
    h_old, h_new = local + 2 * C * LANES, local + 3 * C * LANES
    zeros = local + 4 * C * LANES + block_c * LANES + lanes[:, None]  # a load decides how threads share a tile
    tl.store(zeros, tl.zeros([LANES, BLOCK_C], tl.float32))
    steps = (H - 1) // R * T + (H - 1) % R * 2 + W
    output_bias = tl.load(output_bias_ptr)

    for block in range(tl.program_id(0), tl.cdiv(N, IMAGES), tl.num_programs(0)):
        for i in range(depth * (L * C + 1)):
            tl.store(ring + i * LANES + lanes, tl.zeros([LANES], tl.float32))
        tl.debug_barrier()
        n = (block * IMAGES + g).to(tl.int64)
        for s in range(steps):
            t = s - 2 * r
            row, column = t // T * R + r, t % T
            alive = (t >= 0) & (r < R) & (n < N) & (row < H) & (column < W)
            pixel = (n * H + row) * W + column
            now = ring + s % depth * slot
            left = ring + (s + depth - 1) % depth * slot + lanes
            up_left = ring + _runs((s + depth - 3 - lag) % depth * slot + above, IMAGES)
            up = ring + _runs((s + depth - 2 - lag) % depth * slot + above, IMAGES)
            up_right = ring + _runs((s + depth - 1 - lag) % depth * slot + above, IMAGES)
            kept = alive[:, None]

            # h = conv_A(x) + conv(context) + bias, and the input of the first stage.
            source = now if n_stages > 0 else local
            for c0 in range(0, C, BLOCK_C):
                c = c0 + block_c
                inside = c < C
                acc = tl.load(zeros)
                weight = image_weight_ptr + c
                acc += tl.load(up_left + image)[:, None] * tl.load(weight, mask=inside)
                acc += tl.load(up + image)[:, None] * tl.load(weight + C, mask=inside)
                acc += tl.load(up_right + image)[:, None] * tl.load(weight + 2 * C, mask=inside)
                acc += tl.load(left + image)[:, None] * tl.load(weight + 3 * C, mask=inside)
                for k in range(K):
                    weight = context_weight_ptr + k * 9 * C + c
                    plane = context_ptr + ((n * K + k) * H + row) * W + column
                    for di in tl.static_range(3):
                        for dj in tl.static_range(3):
                            there = (row + di >= 1) & (row + di <= H) & (column + dj >= 1) & (column + dj <= W)
                            value = tl.load(plane + (di - 1) * W + dj - 1, mask=alive & there, other=0)
                            acc += value[:, None] * tl.load(weight + (3 * di + dj) * C, mask=inside)
                acc += tl.load(input_bias_ptr + c, mask=inside)
                place = c * LANES + lanes[:, None]
                tl.store(h_old + place, acc, mask=inside)
                tl.store(source + place, tl.where(kept, _elu(acc), 0), mask=inside)
            tl.debug_barrier()

            for stage in range(n_stages):
                what, index = tl.load(stages_ptr + 2 * stage), tl.load(stages_ptr + 2 * stage + 1)
                following = tl.load(stages_ptr + 2 * stage + 2, mask=stage + 1 < n_stages, other=POINTWISE)
                if following < POINTWISE:  # its index is that of the next layer
                    target = now + tl.load(stages_ptr + 2 * stage + 3) * C * LANES
                else:
                    target = local + stage % 2 * C * LANES
                for c0 in range(0, C, BLOCK_C):
                    c = c0 + block_c
                    inside = c < C
                    acc = tl.load(zeros)
                    if what < POINTWISE:
                        weight = hidden_weight_ptr + index * weight_step + c
                        offset = index * C * LANES
                        acc = _accumulate(acc, (up_left + offset)[:, None], weight, C, LANES, inside, C)
                        acc = _accumulate(acc, (up + offset)[:, None], weight + C * C, C, LANES, inside, C)
                        acc = _accumulate(acc, (up_right + offset)[:, None], weight + 2 * C * C, C, LANES, inside, C)
                        acc = _accumulate(acc, (left + offset)[:, None], weight + 3 * C * C, C, LANES, inside, C)
                        weight += 4 * C * C
                        gain = tl.load(hidden_gain_ptr + index * C + c, mask=inside)
                        bias = tl.load(hidden_bias_ptr + index * C + c, mask=inside)
                    else:
                        weight = pointwise_weight_ptr + index * C * C + c
                        gain = tl.full([1, BLOCK_C], 1, tl.float32)
                        bias = tl.load(pointwise_bias_ptr + index * C + c, mask=inside)
                    acc = _accumulate(acc, (source + lanes)[:, None], weight, C, LANES, inside, C)
                    acc = acc * gain + bias
                    place = c * LANES + lanes[:, None]
                    if what % 2 == 1:
                        acc = tl.load(h_old + place, mask=inside) + residual_scale * acc
                        tl.store(h_new + place, acc, mask=inside)
                    tl.store(target + place, tl.where(kept, _elu(acc), 0), mask=inside)
                if what % 2 == 1:
                    h_old, h_new = h_new, h_old
                source = target
                tl.debug_barrier()

            logit = tl.zeros([LANES], tl.float32)
            for k in range(C):
                logit += tl.load(source + k * LANES + lanes) * tl.load(output_weight_ptr + k)
            p = 1 / (1 + tl.exp(-(logit + output_bias) / temperature))
            drawn = tl.load(uniforms_ptr + pixel, mask=alive, other=1) < p
            if given_ptr is not None:
                given = tl.load(given_ptr + pixel, mask=alive, other=0)
                drawn = tl.where(given < 0, drawn, given == 1)
            tl.store(x_ptr + pixel, drawn.to(tl.float32), mask=alive)
            seen = alive & drawn & (row % visible_stride == 0) & (column % visible_stride == 0)
            tl.store(now + image + lanes, seen.to(tl.float32))
            tl.debug_barrier()
