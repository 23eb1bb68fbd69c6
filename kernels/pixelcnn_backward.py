"""Gradients of the PixelCNN stack: activations are computed anew, weight gradients are summed a program at a time."""

import triton
import triton.language as tl

from vlae_fast.kernels.pixelcnn import (
    SIZES,
    activated,
    add_scaled,
    output_logits,
    pack_forward,
    pick,
    positions,
    run_stack,
    stage_inputs,
)
from vlae_fast.kernels.planes import clear, convolve, correlate, elu_slope, pack_weights, store_planes, zeros


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
    g, e, gradients, sums, plane, row, at, inside, packed, C: tl.constexpr, TAPS: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient before ELU and convolution, given g behind them; adds the weights' gradients to `sums`.

    `e` and `gradients` point to the block's first position.
    """
    store_planes(gradients + at, plane, g, inside, C)
    correlate(sums, e, gradients, plane, row, C, C, TAPS, C, BLOCK, DEPTH, PRECISION)
    acc = convolve(zeros(BLOCK, C + C % 2), gradients + at, plane, row, packed, C, C, TAPS, -1)
    return through_elu(acc, e + at, plane, C)


@triton.jit(do_not_specialize=[*SIZES, "rows", "gradient_stride"])
def pixelcnn_backward_kernel(
    x, context, image_weight, context_weight, input_bias, hidden_weight, hidden_gain, hidden_bias, pointwise_weight,
    pointwise_bias, output_weight, output_bias, upstream, dx, dcontext, sums, scratch, N, H, W, G, L, shared, blocks,
    plane, set_stride, gradient_stride, visible_stride, program_stride, rows, residual_scale, C: tl.constexpr,
    K: tl.constexpr, BLOCK_CONVS: tl.constexpr, AFTER: tl.constexpr, LOG_PROB: tl.constexpr, BLOCK: tl.constexpr,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, dcontext, and of each program its sums [rows, C] for the weights, given dlogits or dlog_prob (`upstream`).

    Rows of the sums: image (4 taps, bias), context (9 K, bias), hidden layers (5 C, bias each), 1x1 convolutions
    (C, bias each), output (C, bias; column 0 alone). Scratch of a program: weights, the same transposed, inputs,
    e of every convolution and of the output, gradients.
    """
    EVEN: tl.constexpr = C + C % 2
    P: tl.constexpr = len(AFTER)
    row = W + 1
    front = row + 1
    program = tl.program_id(0)
    packed = scratch + program.to(tl.int64) * program_stride
    context_at, hidden_at, pointwise_at, hidden_back = pack_forward(
        packed, image_weight, context_weight, hidden_weight, pointwise_weight, shared, C, K, P, BLOCK
    )
    hidden_weight_stride = tl.where(shared == 1, 0, 9 * C * C)
    pointwise_back = hidden_back + L * (5 * C * EVEN)
    image_back = pointwise_back + 2 * P * (C * EVEN)
    context_back = image_back + C * 4 * 2
    inputs = context_back + C * 9 * (K + K % 2)
    pack_weights(hidden_back, hidden_weight, hidden_gain, L, hidden_weight_stride, 9, 9 * C, C, C, 5, True, BLOCK)
    pack_weights(pointwise_back, pointwise_weight, pointwise_weight, 2 * P, C * C, 1, C, C, C, 1, False, BLOCK)
    pack_weights(image_back, image_weight, image_weight, 1, 0, 9, 9, C, 1, 4, False, BLOCK)
    if K > 0:
        pack_weights(context_back, context_weight, context_weight, 1, 0, 9, 9 * K, C, K, 9, False, BLOCK)
    e = inputs + (1 + K) * plane + front
    dh_planes = e + (L + 2 * P + 1) * set_stride
    gradients = dh_planes + C * plane
    clear(inputs, (1 + K + 2 * C) * plane + (L + 2 * P + 1) * set_stride + L * gradient_stride, BLOCK)
    sums += program.to(tl.int64) * rows * C
    clear(sums, rows * C, BLOCK)
    context_sums = sums + 5 * C
    hidden_sums = context_sums + (9 * K + 1) * C
    pointwise_sums = hidden_sums + L * ((5 * C + 1) * C)
    output_sums = pointwise_sums + 2 * P * ((C + 1) * C)

    for n0 in range(program * G, N, tl.num_programs(0) * G):
        stage_inputs(inputs + front, plane, x, context, n0, N, H, W, G, blocks, visible_stride, K, BLOCK)
        e_last = e + (L + 2 * P) * set_stride
        for block in range(blocks):
            n, i, j, inside = positions(block, n0, N, H, W, G, BLOCK)
            at = block * BLOCK + tl.arange(0, BLOCK)
            h = run_stack(
                inputs + front + at, e + at, plane, row, inside, packed, context_at, hidden_at, pointwise_at,
                input_bias, hidden_gain, hidden_bias, pointwise_bias, L, shared, residual_scale, set_stride, C, K,
                BLOCK_CONVS, AFTER, BLOCK,
            )  # fmt: skip
            store_planes(e_last + at, plane, activated(h, C), inside, C)
        for reversed_block in range(blocks):
            start = (blocks - 1 - reversed_block) * BLOCK
            n, i, j, inside = positions(blocks - 1 - reversed_block, n0, N, H, W, G, BLOCK)
            pixel = n * (H * W) + i * W + j
            at = tl.arange(0, BLOCK)
            here, g_here = e + start, gradients + start
            a = ()
            for c in tl.static_range(C):
                a = a + (tl.load(e_last + start + c * plane + at),)
            if LOG_PROB:
                logits = output_logits(a, output_weight, output_bias, BLOCK, C)
                dlog_prob = tl.load(upstream + n, mask=inside, other=0.0)
                dlogit = dlog_prob * (tl.load(x + pixel, mask=inside, other=0.0) - tl.sigmoid(logits))
                tl.store(dx + pixel, dlog_prob * logits, mask=inside)
            else:
                dlogit = tl.load(upstream + pixel, mask=inside, other=0.0)
            store_planes(g_here + at, plane, (dlogit,), inside, 1)
            correlate(
                output_sums, e_last + start, g_here, plane, row, C, 1, 1, C, BLOCK, DEPTH, PRECISION
            )  # fmt: skip
            dh = ()
            for c in tl.static_range(C):
                dh = dh + (tl.load(output_weight + c) * dlogit * elu_slope(a[c]),)

            for reversed_residual in range(L // BLOCK_CONVS):
                residual = L // BLOCK_CONVS - 1 - reversed_residual
                for reversed_p in range(P):
                    p = P - 1 - reversed_p
                    for _ in range((pick(AFTER, p) == residual).to(tl.int32)):
                        g = scaled(dh, residual_scale, C)
                        for reversed_i in range(2):
                            stage = 2 * p + 1 - reversed_i
                            g = layer_backward(
                                g, here + (L + stage) * set_stride, g_here, pointwise_sums + stage * ((C + 1) * C), plane, row,
                                at, inside, pointwise_back + stage * (C * EVEN), C, 1, BLOCK, DEPTH, PRECISION,
                            )  # fmt: skip
                        dh = add_scaled(dh, 1.0, g, C)
                g = scaled(dh, residual_scale, C)
                for reversed_layer in range(BLOCK_CONVS):
                    layer = (residual + 1) * BLOCK_CONVS - 1 - reversed_layer
                    g = layer_backward(
                        g, here + layer * set_stride, g_here + (1 + layer) * gradient_stride,
                        hidden_sums + layer * ((5 * C + 1) * C), plane, row, at, inside,
                        hidden_back + layer * (5 * C * EVEN), C, 5, BLOCK, DEPTH, PRECISION,
                    )  # fmt: skip
                dh = add_scaled(dh, 1.0, g, C)
            store_planes(dh_planes + start + at, plane, dh, inside, C)
            correlate(
                sums, inputs + front + start, dh_planes + start, plane, row, 1, C, 4, C, BLOCK, DEPTH, PRECISION
            )  # fmt: skip
            correlate(
                context_sums, inputs + front + plane + start, dh_planes + start, plane, row, K, C, 9, C, BLOCK, DEPTH,
                PRECISION,
            )  # fmt: skip

        for block in range(blocks):
            n, i, j, inside = positions(block, n0, N, H, W, G, BLOCK)
            pixel = i * W + j
            at = block * BLOCK + tl.arange(0, BLOCK)
            acc = convolve(zeros(BLOCK, 2), dh_planes + at, plane, row, image_back, C, 1, 4, -1)
            visible = (i % visible_stride == 0) & (j % visible_stride == 0)
            dpixel = tl.where(visible, acc[0], 0.0)
            if LOG_PROB:
                dpixel += tl.load(dx + n * (H * W) + pixel, mask=inside, other=0.0)
            tl.store(dx + n * (H * W) + pixel, dpixel, mask=inside)
            acc = convolve(zeros(BLOCK, K + K % 2), dh_planes + at, plane, row, context_back, C, K, 9, -1)
            for k in tl.static_range(K):
                tl.store(dcontext + (n * K + k) * (H * W) + pixel, acc[k], mask=inside)
