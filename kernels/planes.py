"""What the PixelCNN kernels share: activations as one vector of positions for each channel.

A program holds C channels as a tuple of C vectors `[BLOCK]`, one value a position: no channel is padded to a power of
two, a multiplication takes a vector and a scalar weight, and positions are in the lanes. Layers exchange values
through planes in the program's own scratch memory, which stays in its caches. A plane lays an image out with one zero
column behind each row and one zero row behind the last, so that no tap needs a mask.

Offsets within one layer's planes are int32, as are those within the weights: the launchers refuse larger ones. From
layer to layer, program to program and image to image they are int64 (`wide`).
"""

import triton
import triton.language as tl


@triton.jit
def wide(size):
    """A size in int64: it comes as int32 where it fits, but a product with it may not fit."""
    return tl.cast(size, tl.int64)


@triton.jit
def elu(x):
    """exp(x) - 1 for negative x; NaN stays NaN."""
    return tl.where(x < 0, tl.exp(tl.minimum(x, 0.0)) - 1, x)


@triton.jit
def elu_slope(a):
    """The derivative of ELU where its value is a."""
    return tl.where(a > 0, 1.0, a + 1)


@triton.jit
def zeros(BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """COUNT vectors of zeros."""
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.zeros([BLOCK], tl.float32),)
    return values


@triton.jit
def store_planes(to, plane, values, inside, COUNT: tl.constexpr):
    """Writes vectors to their planes, 0 outside of the image. A barrier on both sides: others read these planes."""
    tl.debug_barrier()
    for c in tl.static_range(COUNT):
        tl.store(to + c * plane, tl.where(inside, values[c], 0.0))
    tl.debug_barrier()


@triton.jit
def load_planes(source, plane, COUNT: tl.constexpr):
    """Vectors from their planes."""
    values = ()
    for c in tl.static_range(COUNT):
        values = values + (tl.load(source + c * plane),)
    return values


@triton.jit
def tap_shift(tap, row, TAPS: tl.constexpr):
    """Distance to the position that a tap reads; rows of a plane are `row` positions long."""
    return (tap // 3 - 1) * row + tap % 3 - 1 if TAPS > 1 else tap * 0


@triton.jit
def pack_weights(
    packed, weight, gain, count, stage_stride, out_stride, in_stride, IN: tl.constexpr, OUT: tl.constexpr,
    TAPS: tl.constexpr, HAS_GAIN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copies `count` weights to [count, IN, TAPS, OUT] with an even number of outputs, for `convolve`.

    HAS_GAIN multiplies by gain [count, IN]. The caller sets a barrier.
    """
    EVEN: tl.constexpr = OUT + OUT % 2
    # Not of the planes' shape: the compiler gives all loads of a shape the layout that suits one of them.
    SPAN: tl.constexpr = 2 * BLOCK
    for start in range(0, count * IN * TAPS * EVEN, SPAN):
        at = start + tl.arange(0, SPAN)
        out = at % EVEN
        tap = at // EVEN % TAPS
        source = at // (EVEN * TAPS)
        stage = source // IN
        live = stage < count
        offset = stage * stage_stride + out * out_stride + source % IN * in_stride + tap
        value = tl.load(weight + offset, mask=live & (out < OUT), other=0.0)
        if HAS_GAIN:
            value *= tl.load(gain + source, mask=live, other=0.0)
        tl.store(packed + at, value, mask=live)


@triton.jit
def convolve(
    acc, planes, plane, row, packed, IN: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr, SIGN: tl.constexpr
):  # fmt: skip
    """acc[o] += sum over inputs and taps of weight * value at the tap; SIGN = -1: at the opposite positions.

    A pair of weights comes in one load of 64 bits: the loads of scalars would take as long as the multiplications.
    """
    EVEN: tl.constexpr = OUT + OUT % 2
    pairs = packed.to(tl.pointer_type(tl.int64))
    for i in range(IN):
        for tap in tl.static_range(TAPS):
            value = tl.load(planes + i * plane + SIGN * tap_shift(tap, row, TAPS))
            new = ()
            for o in tl.static_range(0, EVEN, 2):
                pair = tl.load(pairs + (i * TAPS + tap) * (EVEN // 2) + o // 2)
                first = pair.to(tl.int32).to(tl.float32, bitcast=True)
                second = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
                new = new + (acc[o] + value * first, acc[o + 1] + value * second)
            acc = new
    return acc


@triton.jit
def two_parts(x):
    """The first 11 bits of each float32, which TF32 holds, and the rest."""
    first = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return first, x - first


@triton.jit
def correlate(
    sums, planes, gradients, plane, row, count, IN: tl.constexpr, OUT: tl.constexpr, TAPS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """sums[IN * TAPS + 1, COLUMNS] += values at the taps * gradients over `count` positions; the last row: gradients.

    `planes` and `gradients` point to the first position. Planes are finite, and gradients are 0 outside of the image.
    Each float32 is the sum of two TF32 numbers, and three products of those on the tensor cores leave an error of about
    2^-20, below that of summing a million float32 terms. float32 units would take registers that spill.
    """
    ROWS: tl.constexpr = IN * TAPS + 1
    TILE: tl.constexpr = 64 if ROWS > 32 else 16
    q = tl.arange(0, DEPTH)
    for first_row in range(0, ROWS, TILE):
        r = first_row + tl.arange(0, TILE)
        ones = (r >= IN * TAPS)[:, None]  # rows and columns beyond the last read what is there, and are not kept
        values = planes + (tl.minimum(r // TAPS, IN - 1) * plane + tap_shift(r % TAPS, row, TAPS))[:, None] + q[None, :]
        for first_out in range(0, OUT, 16):
            o = first_out + tl.arange(0, 16)
            slopes = gradients + tl.minimum(o, OUT - 1)[None, :] * plane + q[:, None]
            acc = tl.zeros([TILE, 16], tl.float32)
            for start in tl.range(0, count, DEPTH, num_stages=1):
                a, a_rest = two_parts(tl.where(ones, 1.0, tl.load(values + start)))
                g, g_rest = two_parts(tl.load(slopes + start))
                acc = tl.dot(a_rest, g, acc, input_precision="tf32")
                acc = tl.dot(a, g_rest, acc, input_precision="tf32")
                acc = tl.dot(a, g, acc, input_precision="tf32")
            to = sums + r[:, None] * COLUMNS + o[None, :]
            live = (r[:, None] < ROWS) & (o[None, :] < OUT)
            tl.store(to, tl.load(to, mask=live) + acc, mask=live)


@triton.jit
def clear_edges(to, count, plane, front, inner):
    """Writes zeros before (`front`) and behind the `inner` positions of `count` planes. The caller sets a barrier."""
    for _ in range(count):
        for start in range(0, plane - inner, 128):
            at = start + tl.arange(0, 128)
            tl.store(to + tl.where(at < front, at, at + inner), tl.zeros([128], tl.float32), mask=at < plane - inner)
        to += plane
