"""Drawing from a PixelCNN, the whole batch in one launch; every activation is computed once.

Pixels of equal `column + 2 * row` are independent given the earlier ones (see csrc/pixelcnn/sample.cpp). A lane stands
for one row of one image: with G images and R rows at a time, lane r * G + g draws the rows r, r+R, ... of image g, one
pixel a step, two steps behind lane r - 1, and begins its next row T = max(W + 1, 2R) steps after the last. What a layer
needs of its neighbours is then

    left                     the same lane one step ago
    up-right, up, up-left    the lane of the row above, one, two, three steps ago; for r = 0 that is r = R - 1, T - 2R
                             steps earlier still

so a ring of T - 2R + 4 steps is enough. Lanes between two rows (at least one step) leave zeros there: the zero padding
of the convolutions. A thread takes up to 12 channels of up to two lanes, so that a value or weight that it has loaded
serves several multiply-adds. No value crosses from one thread to another but through the ring: global memory that the
launcher provides, small enough for L1 and L2, and a barrier. One barrier a convolution is left. The context convolution
of R rows runs when lane 0 begins a row, off the chain of dependent steps.

Counted for 28x28, C = 12, K = 4, L = 12, P = 4 (the preset "paper"), on an H200 (4.3 TB/s copy, 67 TFLOP/s fp32):

    bytes an image       18.8 kB in HBM (12.5 context, 3.1 uniforms, 3.1 x): 4.4 ns. Cached: 38 kB of inputs, and
                         455 kB of ring, written once and read four times, so L2 at 5 TB/s or better takes 0.5 us
    operations an image  784 x 10,284 multiply-adds = 16.1 MFLOP: 0.24 us
    dependent steps      R = 15: 82 steps; in each 12 x (40 L1 + 240 multiply-adds + 50 ELU + 40 barrier) and
                         10 x (40 + 48 + 50 + 40) cycles, 3.5 us a step or 0.29 ms an image, the floor for N = 1
    instructions         PTX for sm_90, N = 1: 4,900 a step for each of 4 warps, one a scheduler: 2.8 us at one a cycle,
                         0.23 ms; N = 4096: 35,200 a step for a warp (64 lanes: 8 images, 8 rows, 121 steps), one a
                         scheduler: 20 us, 2.4 ms in all, of which L1 takes as much

So floors: 0.29 ms for N = 1 (dependent steps), 2.4 ms for N = 4096 (issue slots and L1; 1 ms by operations). Not
measured; benchmarks/gpu_predicted.md says what to expect.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from vlae_fast.kernels.ahead_of_time import Variant
from vlae_fast.kernels.pixelcnn import load_stage
from vlae_fast.kernels.planes import load_planes, zeros


class Tile(NamedTuple):
    """How a batch is cut into programs; what is drawn does not depend on it, bit for bit."""

    least_batch: int
    images: int
    """G, a power of two."""
    most_rows: int
    """R is at most this."""
    groups: int
    """Threads that share the channels of a lane, a power of two."""
    channels: int
    """That a thread computes at once, an even number."""
    lanes_a_thread: int
    """So often a weight is used that was read once."""

    def rows(self, H: int, W: int) -> int:
        """R for images of this size."""
        return min(H, (W + 2) // 2, self.most_rows)

    def launch(self, C: int, K: int, R: int) -> tuple[dict[str, int], dict[str, int]]:
        """The kernel's constants, and how the compiler is called."""
        lanes = self.images << (R - 1).bit_length()
        warps = max(1, self.groups * lanes // (32 * self.lanes_a_thread))
        block = self.groups * self.channels
        sizes = {"IMAGES": self.images, "LANES": lanes, "GROUPS": self.groups, "COUNT": self.channels}
        return {"C": C, "K": K, "STRIDE": -(-C // block) * block, **sizes}, {"num_warps": warps, "maxnreg": 128}


TILES = (
    Tile(1, images=1, most_rows=64, groups=8, channels=2, lanes_a_thread=1),
    Tile(133, images=1, most_rows=64, groups=2, channels=6, lanes_a_thread=1),
    Tile(661, images=2, most_rows=64, groups=1, channels=12, lanes_a_thread=1),
    Tile(1321, images=4, most_rows=64, groups=1, channels=12, lanes_a_thread=2),
    Tile(3169, images=8, most_rows=8, groups=1, channels=12, lanes_a_thread=2),
    Tile(7393, images=16, most_rows=4, groups=1, channels=12, lanes_a_thread=2),
)
"""The last that the batch is large enough for: what is predicted to be fastest on 132 multiprocessors, not measured."""
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
def _accumulate(acc, value, weight, COUNT: tl.constexpr):
    """acc[o] + value * weight[o] for an even COUNT: weights come in pairs, loads of 64 bits."""
    pairs = weight.to(tl.pointer_type(tl.int64))
    new = ()
    for o in tl.static_range(0, COUNT, 2):
        pair = tl.load(pairs + o // 2)
        first = pair.to(tl.int32).to(tl.float32, bitcast=True)
        second = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        new = new + (acc[o] + value * first, acc[o + 1] + value * second)
    return new


@triton.jit
def scratch_floats(ring_rows, window, STRIDE: tl.constexpr, LANES: tl.constexpr):
    """Scratch memory of a program; the launcher asks the same function (`.fn`)."""
    return (ring_rows + (window + 4) * STRIDE) * LANES


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
    ring_rows,  # depth * (L STRIDE + 1)
    programs,
    C: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,  # C, rounded up to whole blocks: of weights, and channels that are stored
    IMAGES: tl.constexpr,
    LANES: tl.constexpr,
    GROUPS: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Program p draws the blocks p, p + programs, ... of IMAGES images.

    A vector has GROUPS elements a lane, each for COUNT channels of a block, which are a tuple of vectors.
    """
    BLOCK_C: tl.constexpr = GROUPS * COUNT
    UNROLL: tl.constexpr = 24 // COUNT  # inputs between two branches
    elements = tl.arange(0, GROUPS * LANES)
    lanes = elements if GROUPS == 1 else elements % LANES
    channel = 0 if GROUPS == 1 else elements // LANES * COUNT
    first = elements < LANES
    r, g = lanes // IMAGES, lanes % IMAGES
    above = tl.where(r == 0, lanes + (R - 1) * IMAGES, lanes - IMAGES)
    lag = tl.where(r == 0, depth - 4, 0)
    slot = (L * STRIDE + 1) * LANES  # floats of a step: the inputs of the L layers, then the image
    image = L * STRIDE * LANES
    floats = scratch_floats(ring_rows, window, STRIDE, LANES)
    local = scratch_ptr + tl.program_id(0).to(tl.int64) * floats
    # `local`: inputs of the stages that no neighbour needs, two by turns
    h_old, h_new = local + 2 * STRIDE * LANES, local + 3 * STRIDE * LANES  # by turns
    ring = local + 4 * STRIDE * LANES
    inputs = ring + ring_rows * LANES  # [window, STRIDE, LANES]: conv(context) + bias for the steps to come
    hidden_weight = weight_ptr + (9 + 9 * K) * STRIDE
    pointwise_weight = weight_ptr + pointwise * STRIDE

    for block in range(tl.program_id(0), tl.cdiv(N, IMAGES), programs):
        n = block * IMAGES + g
        for k in range(ring_rows):
            tl.store(ring + k * LANES + lanes, tl.zeros([GROUPS * LANES], tl.float32), mask=first)
        for s in range(steps):
            if (s % T == 0) & (s // T * R < H):  # lane 0 begins a row: context for R rows
                for chunk in range(tl.cdiv(R * W * IMAGES, GROUPS * LANES)):
                    place = chunk * (GROUPS * LANES) + elements
                    position, image_index = place // IMAGES, block * IMAGES + place % IMAGES
                    lane_row, column = position // W, position % W
                    row = s // T * R + lane_row
                    wanted = (lane_row < R) & (row < H) & (image_index < N)
                    target = inputs + (s + 2 * lane_row + column) % window * (STRIDE * LANES) + lane_row * IMAGES
                    target += place % IMAGES
                    for c0 in range(0, STRIDE, BLOCK_C):
                        acc = zeros(GROUPS * LANES, BLOCK_C)
                        for tap in range(9):
                            i, j = row + tap // 3 - 1, column + tap % 3 - 1
                            there = wanted & (i >= 0) & (i < H) & (j >= 0) & (j < W)
                            plane = context_ptr + (image_index.to(tl.int64) * K * H + i) * W + j
                            weight = weight_ptr + (9 + tap * K) * STRIDE + c0
                            for k in range(K):
                                value = tl.load(plane + k * H * W, mask=there, other=0)
                                acc = _accumulate(acc, value, weight + k * STRIDE, BLOCK_C)
                        for o in tl.static_range(BLOCK_C):
                            bias = tl.load(input_bias_ptr + c0 + o, mask=c0 + o < C, other=0)
                            tl.store(target + (c0 + o) * LANES, acc[o] + bias, mask=wanted)
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
            for c0 in range(0, STRIDE, BLOCK_C):
                offset = (c0 + channel) * LANES + lanes
                weight = weight_ptr + c0 + channel
                acc = load_planes(inputs + s % window * (STRIDE * LANES) + offset, LANES, COUNT)
                acc = _accumulate(acc, tl.load(up_left + image), weight, COUNT)
                acc = _accumulate(acc, tl.load(up + image), weight + STRIDE, COUNT)
                acc = _accumulate(acc, tl.load(up_right + image), weight + 2 * STRIDE, COUNT)
                acc = _accumulate(acc, tl.load(left + image), weight + 3 * STRIDE, COUNT)
                for o in tl.static_range(COUNT):
                    tl.store(h_old + offset + o * LANES, acc[o])
                    tl.store(source + offset + o * LANES, tl.where(alive, _elu(acc[o]), 0))
            tl.debug_barrier()

            for stage in range(n_stages):
                at = 3 * stage
                taps, index, closes = load_stage(stages_ptr + at)
                following = tl.load(stages_ptr + at + 3)
                layer_input = now + tl.load(stages_ptr + at + 4) * STRIDE * LANES
                target = tl.where(following == 5, layer_input, local + stage % 2 * STRIDE * LANES)
                here = source + lanes
                for c0 in range(0, STRIDE, BLOCK_C):
                    c = c0 + channel
                    acc = zeros(GROUPS * LANES, COUNT)
                    if taps == 5:
                        weight = hidden_weight + index * weight_step * STRIDE + c
                        skip = index * STRIDE * LANES
                        for k in tl.range(0, C, loop_unroll_factor=UNROLL):
                            at_k, row_k = skip + k * LANES, weight + k * STRIDE
                            acc = _accumulate(acc, tl.load(up_left + at_k), row_k, COUNT)
                            acc = _accumulate(acc, tl.load(up + at_k), row_k + C * STRIDE, COUNT)
                            acc = _accumulate(acc, tl.load(up_right + at_k), row_k + 2 * C * STRIDE, COUNT)
                            acc = _accumulate(acc, tl.load(left + at_k), row_k + 3 * C * STRIDE, COUNT)
                            acc = _accumulate(acc, tl.load(here + k * LANES), row_k + 4 * C * STRIDE, COUNT)
                        gain, bias = hidden_gain_ptr + index * C + c, hidden_bias_ptr + index * C + c
                    else:
                        weight = pointwise_weight + index * C * STRIDE + c
                        for k in tl.range(0, C, loop_unroll_factor=UNROLL):
                            acc = _accumulate(acc, tl.load(here + k * LANES), weight + k * STRIDE, COUNT)
                        # no gain: what is loaded is not used
                        gain, bias = pointwise_bias_ptr + index * C + c, pointwise_bias_ptr + index * C + c
                    offset = c * LANES + lanes
                    for o in tl.static_range(COUNT):
                        factor = tl.where(taps == 5, tl.load(gain + o, mask=c + o < C, other=0), 1.0)
                        value = acc[o] * factor + tl.load(bias + o, mask=c + o < C, other=0)
                        kept = tl.load(h_old + offset + o * LANES, mask=closes)
                        value = tl.where(closes, kept + residual_scale * value, value)
                        tl.store(h_new + offset + o * LANES, value, mask=closes)
                        tl.store(target + offset + o * LANES, tl.where(alive, _elu(value), 0))
                if closes:
                    h_old, h_new = h_new, h_old
                source = target
                tl.debug_barrier()

            logit = tl.zeros([GROUPS * LANES], tl.float32)
            for k in tl.range(0, C, loop_unroll_factor=12):
                logit += tl.load(source + k * LANES + lanes) * tl.load(output_weight_ptr + k)
            p = 1 / (1 + tl.exp(-(logit + tl.load(output_bias_ptr)) / temperature))
            drawn = tl.where(p == p, (uniforms < p).to(tl.float32), p)  # NaN where the logit is
            if given_ptr is not None:
                given = tl.load(given_ptr + pixel, mask=alive, other=0)
                drawn = tl.where(given < 0, drawn, given.to(tl.float32))
            tl.store(x_ptr + pixel, drawn, mask=alive & first)
            seen = alive & (row % visible_stride == 0) & (column % visible_stride == 0)
            tl.store(now + image + lanes, tl.where(seen, drawn, 0), mask=first)
            tl.debug_barrier()


def variants(architecture: int) -> list[Variant]:
    """What a launch can ask for with 28x28 pixels, 12 channels, 4 of context: every tile, without and with `given`."""
    found = []
    for tile in TILES:
        constants, options = tile.launch(12, 4, tile.rows(28, 28))
        warps, most = options["num_warps"], {"maxnreg": options["maxnreg"]}
        for name, given, types in (("", {"given_ptr": None}, {}), (" given", {}, {"given_ptr": "*i8"})):
            name = f"pixelcnn_sample from {tile.least_batch}{name}"
            types = types | {"stages_ptr": "*i32"}
            found.append(Variant(name, pixelcnn_sample_kernel, constants | given, warps, types, most))
    return found
