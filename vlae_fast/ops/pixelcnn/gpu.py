"""Launches of kernels/pixelcnn.py, pixelcnn_backward.py and pixelcnn_sample.py."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.ops.arguments import operands
from vlae_fast.ops.launch import cdiv, check_counts, config_of, kernels_of, resident_programs
from vlae_fast.ops.pixelcnn.wiring import stage_table

__all__ = [
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
]

Params = list[Tensor]
"""The fields of PixelCNNParams, in order."""

Sizes = dict[str, int]
"""By their letters."""
MOST_SCRATCH = 1 << 28
"""Floats of scratch memory in all (1 GiB), where one program does not need more."""


class _PixelCNN:
    """Wiring, programs and scratch memory of one call."""

    def __init__(
        self, backward: bool, x: Tensor, sizes: Sizes, stages: list[int], residual_scale: float, visible_stride: int
    ) -> None:
        N, H, W, C, K, L, P, S = (sizes[a] for a in "NHWCKLPS")
        config = config_of("pixelcnn", C, x)
        layout = kernels_of("pixelcnn", x).layout(config.block, backward, H, W, C, K, L, P, S)
        self.rows = layout.rows
        self.programs = min(resident_programs(x, config), cdiv(N, layout.group), max(1, MOST_SCRATCH // layout.floats))
        self.batch = self.programs * layout.group
        check_counts(
            images=N + self.batch, positions=(2 + K + 2 * C) * layout.plane, weights=max(layout.weights, self.rows * C)
        )
        self.stages = stage_table(stages, visible_stride, sizes, x.device)
        self.scratch = x.new_empty(self.programs * layout.floats)
        self.sizes = (
            N, H, W, layout.group, L, P, S, layout.blocks, layout.plane, layout.set_stride, visible_stride,
            layout.floats,
        )  # fmt: skip
        self.positions = L, P, W + 1, layout.blocks * config.block, layout.plane, layout.set_stride, layout.floats
        self.options = {
            "residual_scale": residual_scale, "C": C, "K": K, "BLOCK": config.block, "num_warps": config.num_warps,
        }  # fmt: skip


# `wiring` is the rows of PixelCNNSpec.stages, residual_scale and visible_stride; context is [N, 0, H, W] where there is
# none.


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_logits`."""
    return _pixelcnn("logits", x, context, params, wiring)


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_log_prob`."""
    return _pixelcnn("log_prob", x, context, params, wiring)


def _pixelcnn(kind: str, x: Tensor, context: Tensor, params: Params, wiring: Any) -> Tensor:
    sizes = operands("pixelcnn", None, params, x=x, context=context)
    kernels = kernels_of("pixelcnn", x)
    result = torch.empty_like(x) if kind == "logits" else x.new_empty(len(x))
    if x.numel():
        call = _PixelCNN(False, x, sizes, *wiring)
        with torch.cuda.device_of(x):
            kernels.pixelcnn_forward_kernel[(call.programs,)](
                x, context, *params, call.stages, result, call.scratch, 0, *call.sizes, **call.options, RESULT=kind
            )
    return result


def pixelcnn_logits_backward(dlogits: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_logits`."""
    return _pixelcnn_backward("logits", dlogits, x, context, params, wiring)


def pixelcnn_log_prob_backward(
    dlog_prob: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any
) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_log_prob`."""
    return _pixelcnn_backward("log_prob", dlog_prob, x, context, params, wiring)


def _pixelcnn_backward(
    kind: str, upstream: Tensor, x: Tensor, context: Tensor, params: Params, wiring: Any
) -> list[Tensor]:
    sizes = operands("pixelcnn", None, params, x=x, context=context, **{f"d{kind}": upstream})
    forward, backward = kernels_of("pixelcnn", x), kernels_of("pixelcnn_backward", x)
    if x.numel() == 0:
        return [torch.zeros_like(t) for t in (x, context, *params)]
    call = _PixelCNN(True, x, sizes, *wiring)
    C, weights = call.options["C"], config_of("pixelcnn_weights", call.options["C"], x)
    dx, dcontext, sums = torch.empty_like(x), torch.empty_like(context), x.new_zeros(call.programs, call.rows, C)
    image_weight, context_weight, _, hidden_weight, gain, _, pointwise_weight, _, output_weight, output_bias = params
    used = image_weight, context_weight, hidden_weight, gain, pointwise_weight, output_weight, output_bias
    with torch.cuda.device_of(x):
        for begin in range(0, len(x), call.batch):
            forward.pixelcnn_forward_kernel[(call.programs,)](
                x, context, *params, call.stages, x, call.scratch, begin, *call.sizes, **call.options, RESULT="keep"
            )
            backward.pixelcnn_backward_kernel[(call.programs,)](
                x, *used, call.stages, upstream, dx, dcontext, call.scratch, begin, *call.sizes, **call.options,
                RESULT=kind,
            )  # fmt: skip
            backward.pixelcnn_backward_weights_kernel[(call.programs, weights.programs)](
                call.stages, sums, call.scratch, *call.positions, C=C, K=call.options["K"], DEPTH=weights.block,
                num_warps=weights.num_warps,
            )  # fmt: skip
    return [dx, dcontext, *_pixelcnn_dparams(sums.sum(0), params)]


def _pixelcnn_dparams(sums: Tensor, params: Params) -> list[Tensor]:
    """Gradients of the parameters from the sums [rows, C] of gradients of the convolutions themselves."""
    (C, K), L, P = params[1].shape[:2], len(params[4]), len(params[6])
    rows = [5, 9 * K + 1, L * (5 * C + 1), 2 * P * (C + 1), C + 1]
    image, context, hidden, pointwise, output = sums.split(rows)
    dimage = torch.zeros_like(params[0])
    dimage.view(C, 9)[:, :4] = image[:4].T
    dcontext_weight = context[:-1].view(K, 3, 3, C).permute(3, 0, 1, 2).contiguous()

    hidden = hidden.view(L, 5 * C + 1, C)
    filters = hidden[:, :-1].view(L, C, 5, C).permute(0, 3, 1, 2)  # [L, out, in, tap]
    dgain = (params[3].flatten(3)[..., :5] * filters).sum((2, 3))
    filters = params[4][:, :, None, None] * filters
    dhidden = torch.zeros_like(params[3])
    dhidden.flatten(3)[..., :5] = filters if len(dhidden) == L else filters.sum(0, keepdim=True)

    pointwise = pointwise.view(P, 2, C + 1, C)
    dpointwise = pointwise[:, :, :-1].transpose(2, 3).contiguous()
    dpointwise_bias = pointwise[:, :, -1].contiguous()
    return [
        dimage, dcontext_weight, image[4].clone(), dhidden, dgain, hidden[:, -1].contiguous(), dpointwise,
        dpointwise_bias, output[:-1, 0].contiguous(), output[-1, :1].clone(),
    ]  # fmt: skip


def pixelcnn_sample(
    context: Tensor,
    params: list[Tensor],
    uniforms: Tensor,
    stages: list[int],
    residual_scale: float,
    visible_stride: int,
    temperature: float,
    given: Tensor | None,
) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_sample`."""
    sizes = operands("pixelcnn", None, params, context=context, uniforms=uniforms, given=given)
    table = stage_table(stages, visible_stride, sizes, uniforms.device)
    N, H, W, C, K, L, P, S = (sizes[a] for a in "NHWCKLPS")
    kernels = kernels_of("pixelcnn_sample", uniforms)
    x = uniforms.new_empty(N, 1, H, W)
    if x.numel() == 0:
        return x
    image_weight, context_weight, input_bias, hidden_weight, gain, bias, pointwise_weight, *rest = params
    tile = [tile for tile in kernels.TILES if tile.least_batch <= N][-1]
    R = tile.rows(H, W)
    T = max(W + 1, 2 * R)
    constants, options = tile.launch(C, K, R)
    depth, window = T - 2 * R + 4, 2 * R + W
    steps = (H - 1) // R * T + (H - 1) % R * 2 + W
    stride = constants["STRIDE"]
    ring_rows = depth * (L * stride + 1)
    floats = kernels.scratch_floats.fn(ring_rows, window, stride, constants["LANES"])
    check_counts(
        images=2 * N,
        positions=max(2 * R * W * tile.images, 2 * (steps + T), K * H * W),
        scratch=floats,
    )
    programs = min(cdiv(N, tile.images), kernels.MOST_PROGRAMS)
    rows = (9, 9 * K, 9 * S * C, 2 * P * C)
    packed = uniforms.new_zeros(sum(rows), stride)
    for part, weight in zip(
        packed.split(rows),
        (
            image_weight.permute(1, 2, 3, 0),
            context_weight.permute(2, 3, 1, 0),
            hidden_weight.permute(0, 3, 4, 2, 1),
            pointwise_weight.transpose(2, 3),
        ),
        strict=True,
    ):
        part.view(*weight.shape[:-1], stride)[..., :C] = weight
    check_counts(weights=packed.numel())
    with torch.cuda.device_of(uniforms):
        kernels.pixelcnn_sample_kernel[(programs,)](
            context, uniforms, given, x, uniforms.new_empty(programs, floats), table, packed,
            input_bias, gain, bias, *rest, residual_scale, temperature,
            N, H, W, L, L + 2 * P, 0 if S == 1 else 9 * C, sum(rows[:3]), visible_stride,
            R, T, depth, window, steps, ring_rows, programs,
            **constants, **options,
        )  # fmt: skip
    return x
