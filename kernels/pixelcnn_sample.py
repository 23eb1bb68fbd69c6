"""Drawing from a PixelCNN, the whole batch in one launch; every activation is computed once.

Pixels of equal `column + 2 * row` are independent given the earlier ones (see csrc/pixelcnn/sample.cpp). A lane stands
for one row of one image: with G images and R rows at a time, lane r * G + g draws the rows r, r+R, ... of image g, one
pixel a step, two steps behind lane r - 1, and begins its next row T = max(W + 1, 2R) steps after the last. What a layer
needs of its neighbours is then

    left                     the same lane one step ago
    up-right, up, up-left    the lane of the row above, one, two, three steps ago; for r = 0 that is r = R - 1, T - 2R
                             steps earlier still

so a ring of T - 2R + 4 steps is enough. Lanes between two rows (at least one step) leave zeros there: the zero padding
of the convolutions. A tile is [lanes, channels]; threads share it so that no value crosses from one to another but
through the ring: global memory that the launcher provides, small enough for L1 and L2, and a barrier. One barrier a
convolution is left. The context convolution of R rows runs when lane 0 begins a row, off the chain of dependent steps.

Counted for 28x28, C = 12, K = 4, L = 12, P = 4 (the preset "paper"), on an H200 (4.3 TB/s copy, 67 TFLOP/s fp32):

    bytes an image       18.8 kB in HBM (12.5 context, 3.1 uniforms, 3.1 x): 4.4 ns. Cached: 48 kB of inputs, and
                         455 kB of ring, written once and read four times, so L2 at 5 TB/s or better takes 0.5 us
    operations an image  784 x 10,284 multiply-adds = 16.1 MFLOP: 0.24 us; tiles of 16 channels make it 0.32
    dependent steps      R = 15: 82 steps of 22 barriers; 22 x (40 L1 + 60 additions + 50 ELU + 40 barrier) cycles are
                         2.4 us a step or 0.2 ms an image, the floor for N = 1
    instructions         sm_90, N = 1: 7,100 a step for each of 4 warps, one a scheduler: 4 us at one a cycle, 0.34 ms;
                         sm_90, N = 4096: 16,100 a step for each of 2 warps (32 lanes: 4 images, 8 rows, 118 steps),
                         4 schedulers: 135 us an image on one SM, 4.2 ms for 4,096 images on 132 (counted for 5 layers,
                         3,600 and 8,200, and taken in proportion to the multiply-adds)

So floors: 0.34 ms for N = 1 (issue slots), 4.2 ms for N = 4096 (issue slots; 1 ms by operations). Not measured yet.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.pixelcnn import load_stage


class Tile(NamedTuple):
    """How a batch is cut into programs; what is drawn does not depend on it, bit for bit."""

    least_batch: int
    images: int
    """G, a power of two."""
    most_rows: int
    """R is at most this."""
    lanes_a_warp: int
    """Below 32: a load that has as many elements as there are threads would decide their layout by itself."""

    def rows(self, H: int, W: int) -> int:
        """R for images of this size."""
        return min(H, (W + 2) // 2, self.most_rows)

    def launch(self, C: int, K: int, R: int) -> tuple[dict[str, int], dict[str, int]]:
        """The kernel's constants, and how the compiler is called."""
        lanes = max(16, self.images << (R - 1).bit_length())
        warps = lanes // self.lanes_a_warp
        sizes = {"IMAGES": self.images, "LANES": lanes, "PIXELS": 16 * warps, "BLOCK_C": BLOCK_C}
        return {"C": C, "K": K, **sizes}, {"num_warps": warps, "maxnreg": 128}


BLOCK_C = 16
"""Channels of a tile."""
TILES = (
    Tile(1, images=1, most_rows=64, lanes_a_warp=4),
    Tile(512, images=1, most_rows=32, lanes_a_warp=16),
    Tile(2048, images=4, most_rows=8, lanes_a_warp=16),
    Tile(16384, images=8, most_rows=4, lanes_a_warp=16),
)
"""The last that the batch is large enough for. Reasoned from the counts above, not measured yet."""
MOST_PROGRAMS = 2048
"""More than a GPU runs at once; bounds the memory that they need."""


@triton.jit
def _elu(x):
    return tl.where(x > 0, x, tl.exp(x) - 1)


@triton.jit
def _runs(offsets, IMAGES: tl.constexpr):
    """Tells the compiler that the offsets of a row's lanes follow one another."""
    RUN: tl.constexpr = 4 if IMAGES > 4 else IMAGES
    return tl.max_contiguous(tl.multiple_of(offsets, RUN), RUN)


@triton.jit
def _accumulate(acc, source, weight, C: tl.constexpr, LANES: tl.constexpr, STRIDE: tl.constexpr):
    """acc[lane, c] + sum over k of source[k, lane] * weight[k, c]; the sum runs in this order whatever the tile."""
    for k in tl.range(0, C, loop_unroll_factor=6):
        acc += tl.load(source + k * LANES) * tl.load(weight + k * STRIDE)
    return acc


@triton.jit
def scratch_floats(
    ring_rows, window, C: tl.constexpr, LANES: tl.constexpr, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Scratch memory of a program; the launcher asks the same function (`.fn`)."""
    return (ring_rows + (window + 4) * C) * LANES + BLOCK_C * PIXELS


@triton.jit(
    do_not_specialize=[
        "N",
        "H",
        "W",
        "L",
        "n_stages",
        "weight_step",
        "pointwise",
        "visible_stride",
        "R",
        "T",
        "depth",
        "window",
        "steps",
        "ring_rows",
        "programs",
    ]
)
def pixelcnn_sample_kernel(
    context_ptr,  # [N, K, H, W]
    uniforms_ptr,  # [N, H, W]
    given_ptr,  # [N, H, W] int8, or None
    x_ptr,  # [N, H, W], written
    scratch_ptr,  # [programs, floats]
    stages_ptr,  # [n_stages + 1, 3] int32: rows of PixelCNNSpec.stages, and an end
    weight_ptr,  # [9 image + 9 K context + 9 S C hidden + 2 P C pointwise rows: taps, then channels in; STRIDE]
    input_bias_ptr,  # [C]
    hidden_gain_ptr,  # [L, C]
    hidden_bias_ptr,  # [L, C]
    pointwise_bias_ptr,  # [P, 2, C]
    output_weight_ptr,  # [C]
    output_bias_ptr,  # [1]
    residual_scale,
    temperature,
    N,
    H,
    W,
    L,
    n_stages,
    weight_step,  # rows from one layer's hidden weight to the next: 0 if they are tied
    pointwise,  # first row of the pointwise weights
    visible_stride,
    R,
    T,
    depth,  # of the ring: T - 2 R + 4
    window,  # 2 R + W, the steps for which `inputs` has room
    steps,
    ring_rows,  # depth * (L C + 1)
    programs,
    C: tl.constexpr,
    K: tl.constexpr,
    IMAGES: tl.constexpr,
    LANES: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program p draws the blocks p, p + programs, ... of IMAGES images."""
    STRIDE: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C * BLOCK_C
    lanes, pixels, block_c = tl.arange(0, LANES), tl.arange(0, PIXELS), tl.arange(0, BLOCK_C)[None, :]
    r, g = lanes // IMAGES, lanes % IMAGES
    above = tl.where(r == 0, lanes + (R - 1) * IMAGES, lanes - IMAGES)
    lag = tl.where(r == 0, depth - 4, 0)
    slot = (L * C + 1) * LANES  # floats of a step: the inputs of the L layers, then the image
    image = L * C * LANES
    floats = scratch_floats(ring_rows, window, C, LANES, PIXELS, BLOCK_C)
    local = scratch_ptr + tl.program_id(0).to(tl.int64) * floats
    # `local`: inputs of the stages that no neighbour needs, two by turns
    h_old, h_new = local + 2 * C * LANES, local + 3 * C * LANES  # by turns
    zeros = local + 4 * C * LANES  # [BLOCK_C, PIXELS]: a load decides how the threads share a tile
    ring = zeros + BLOCK_C * PIXELS
    inputs = ring + ring_rows * LANES  # [window, C, LANES]: conv(context) + bias for the steps to come
    lane_zeros = zeros + block_c * PIXELS + lanes[:, None]
    pixel_zeros = zeros + block_c * PIXELS + pixels[:, None]
    tl.store(pixel_zeros, tl.zeros([PIXELS, BLOCK_C], tl.float32))
    hidden_weight = weight_ptr + (9 + 9 * K) * STRIDE
    pointwise_weight = weight_ptr + pointwise * STRIDE

    for block in range(tl.program_id(0), tl.cdiv(N, IMAGES), programs):
        n = block * IMAGES + g
        for k in range(ring_rows):
            tl.store(ring + k * LANES + lanes, tl.zeros([LANES], tl.float32))
        for s in range(steps):
            if (s % T == 0) & (s // T * R < H):  # lane 0 begins a row: context for R rows
                for chunk in range(tl.cdiv(R * W * IMAGES, PIXELS)):
                    place = chunk * PIXELS + pixels
                    position, image_index = place // IMAGES, block * IMAGES + place % IMAGES
                    lane_row, column = position // W, position % W
                    row = s // T * R + lane_row
                    wanted = (lane_row < R) & (row < H) & (image_index < N)
                    target = inputs + (s + 2 * lane_row + column) % window * (C * LANES) + lane_row * IMAGES
                    target += place % IMAGES
                    for c0 in range(0, C, BLOCK_C):
                        c = c0 + block_c
                        acc = tl.load(pixel_zeros)
                        for tap in range(9):
                            i, j = row + tap // 3 - 1, column + tap % 3 - 1
                            there = wanted & (i >= 0) & (i < H) & (j >= 0) & (j < W)
                            plane = context_ptr + (image_index.to(tl.int64) * K * H + i) * W + j
                            weight = weight_ptr + (9 + tap * K) * STRIDE + c
                            for k in tl.range(0, K, loop_unroll_factor=4):
                                value = tl.load(plane + k * H * W, mask=there, other=0)
                                acc += value[:, None] * tl.load(weight + k * STRIDE)
                        acc += tl.load(input_bias_ptr + c, mask=c < C)
                        tl.store(target[:, None] + c * LANES, acc, mask=wanted[:, None] & (c < C))
                tl.debug_barrier()

            t = s - 2 * r
            row, column = t // T * R + r, t % T
            alive = (t >= 0) & (r < R) & (n < N) & (row < H) & (column < W)
            pixel = (n.to(tl.int64) * H + row) * W + column
            uniforms = tl.load(uniforms_ptr + pixel, mask=alive, other=1)
            now = ring + s % depth * slot
            left = ring + (s + depth - 1) % depth * slot + lanes
            up_left = ring + _runs((s + depth - 3 - lag) % depth * slot + above, IMAGES)
            up = ring + _runs((s + depth - 2 - lag) % depth * slot + above, IMAGES)
            up_right = ring + _runs((s + depth - 1 - lag) % depth * slot + above, IMAGES)

            # h = conv_A(x) + conv(context) + bias, and the input of the first stage.
            source = now if n_stages > 0 else local
            for c0 in range(0, C, BLOCK_C):
                c = c0 + block_c
                weight = weight_ptr + c
                offset = c * LANES + lanes[:, None]
                acc = tl.load(inputs + s % window * (C * LANES) + offset, mask=c < C)
                acc += tl.load(up_left + image)[:, None] * tl.load(weight)
                acc += tl.load(up + image)[:, None] * tl.load(weight + STRIDE)
                acc += tl.load(up_right + image)[:, None] * tl.load(weight + 2 * STRIDE)
                acc += tl.load(left + image)[:, None] * tl.load(weight + 3 * STRIDE)
                tl.store(h_old + offset, acc, mask=c < C)
                tl.store(source + offset, tl.where(alive[:, None], _elu(acc), 0), mask=c < C)
            tl.debug_barrier()

            for stage in range(n_stages):
                at = 3 * stage
                taps, index, closes = load_stage(stages_ptr + at)
                following = tl.load(stages_ptr + at + 3)
                if following == 5:  # its index is that of the next layer
                    target = now + tl.load(stages_ptr + at + 4) * C * LANES
                else:
                    target = local + stage % 2 * C * LANES
                for c0 in range(0, C, BLOCK_C):
                    c = c0 + block_c
                    acc = tl.load(lane_zeros)
                    if taps == 5:
                        weight = hidden_weight + index * weight_step * STRIDE + c
                        skip = index * C * LANES
                        acc = _accumulate(acc, (up_left + skip)[:, None], weight, C, LANES, STRIDE)
                        acc = _accumulate(acc, (up + skip)[:, None], weight + C * STRIDE, C, LANES, STRIDE)
                        acc = _accumulate(acc, (up_right + skip)[:, None], weight + 2 * C * STRIDE, C, LANES, STRIDE)
                        acc = _accumulate(acc, (left + skip)[:, None], weight + 3 * C * STRIDE, C, LANES, STRIDE)
                        weight += 4 * C * STRIDE
                        gain = tl.load(hidden_gain_ptr + index * C + c, mask=c < C)
                        bias = tl.load(hidden_bias_ptr + index * C + c, mask=c < C)
                    else:
                        weight = pointwise_weight + index * C * STRIDE + c
                        gain = tl.full([1, BLOCK_C], 1, tl.float32)
                        bias = tl.load(pointwise_bias_ptr + index * C + c, mask=c < C)
                    acc = _accumulate(acc, (source + lanes)[:, None], weight, C, LANES, STRIDE)
                    acc = acc * gain + bias
                    offset = c * LANES + lanes[:, None]
                    if closes:
                        acc = tl.load(h_old + offset, mask=c < C) + residual_scale * acc
                        tl.store(h_new + offset, acc, mask=c < C)
                    tl.store(target + offset, tl.where(alive[:, None], _elu(acc), 0), mask=c < C)
                if closes:
                    h_old, h_new = h_new, h_old
                source = target
                tl.debug_barrier()

            logit = tl.zeros([LANES], tl.float32)
            for k in tl.range(0, C, loop_unroll_factor=4):
                logit += tl.load(source + k * LANES + lanes) * tl.load(output_weight_ptr + k)
            p = 1 / (1 + tl.exp(-(logit + tl.load(output_bias_ptr)) / temperature))
            drawn = tl.where(p == p, (uniforms < p).to(tl.float32), p)  # NaN where the logit is
            if given_ptr is not None:
                given = tl.load(given_ptr + pixel, mask=alive, other=0)
                drawn = tl.where(given < 0, drawn, given.to(tl.float32))
            tl.store(x_ptr + pixel, drawn, mask=alive)
            seen = alive & (row % visible_stride == 0) & (column % visible_stride == 0)
            tl.store(now + image + lanes, tl.where(seen, drawn, 0))
            tl.debug_barrier()


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for with 28x28 pixels, 12 channels, 4 of context: every tile, without and with `given`."""
    found = []
    for tile in TILES:
        constants, options = tile.launch(12, 4, tile.rows(28, 28))
        warps, most = options["num_warps"], {"maxnreg": options["maxnreg"]}
        for name, given, types in (("", {"given_ptr": None}, {}), (" given", {}, {"given_ptr": "*i8"})):
            name = f"pixelcnn_sample {tile.images} x {tile.most_rows}{name}"
            types = types | {"stages_ptr": "*i32"}
            found.append(Variant(name, pixelcnn_sample_kernel, constants | given, warps, types, most))
    return found
