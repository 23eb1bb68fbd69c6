"""CUDA bodies of the operators: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

`vlae_fast.ops` registers the functions of this module under their names, with the same arguments as those of
`native.py`. No function here synchronises with the host: values on a GPU are not checked. All memory comes from
torch's caching allocator before a launch, and launches go to the current stream: CUDA graphs can capture them.
Triton's interpreter (TRITON_INTERPRET=1) runs the same functions on CPU tensors.
"""

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from vlae_fast.kernels.table import DEPTH, PRECISION, Config, choose

__all__ = [
    "masked_conv3x3",
    "masked_conv3x3_backward",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "weight_norm",
    "weight_norm_backward",
]

Params = list[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""


def _kernels(stem: str, x: Tensor) -> Any:
    """The module `vlae_fast.kernels.<stem>`, once it is known that its kernels can run on the device of x."""
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        mend = "move the tensors to a GPU"
        if torch.version.cuda is None:
            mend += f" with a CUDA build of torch (this is {torch.__version__}; see pytorch.org)"
        raise RuntimeError(f"vlae_fast: the CUDA kernels cannot run on the device {x.device}: {mend}")
    try:
        return importlib.import_module(f"vlae_fast.kernels.{stem}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise RuntimeError(
            "vlae_fast: CUDA tensors need Triton, which is not installed: pip install 'vlae_fast[gpu]', "
            "or use vlae_fast.use_backend('reference')"
        ) from None


def _config(kernel: str, channels: int, x: Tensor) -> Config:
    """Launch options on the device of x; of any architecture under the interpreter."""
    if x.device.type != "cuda":
        return choose(kernel, channels)
    major, minor = torch.cuda.get_device_capability(x.device)
    return choose(kernel, channels, 10 * major + minor)


def _resident(x: Tensor, config: Config) -> int:
    """How many programs that take block after block are launched on the device of x: two under the interpreter."""
    if x.device.type != "cuda":
        return 2
    count: int = torch.cuda.get_device_properties(x.device).multi_processor_count
    return config.programs * count


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


# --- masked_conv3x3 ---------------------------------------------------------------------------------------------


def masked_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor | None,
    residual: Tensor | None,
    mask: str,
    pre_elu: bool,
    residual_scale: float,
) -> Tensor:
    """See `reference.masked_conv3x3`."""
    kernels = _kernels("masked_conv", x)
    N, C, H, W = x.shape
    K = len(weight)
    y = x.new_empty(N, K, H, W)
    if y.numel():
        config = _config("masked_conv3x3", K, x)
        grid = _cdiv(N * H * W, config.block), _cdiv(K, kernels.GROUP)
        constants = {"TAPS": {"A": 4, "B": 5}[mask], "PRE_ELU": pre_elu}
        with torch.cuda.device_of(x):
            kernels.masked_conv3x3_forward_kernel[grid](
                x, weight, bias, gain, residual, y, N, C, K, H, W, residual_scale, **constants,
                GROUP=kernels.GROUP, BLOCK=config.block, num_warps=config.num_warps,
            )  # fmt: skip
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    kernels = _kernels("masked_conv", x)
    N, C, H, W = x.shape
    K = len(weight)
    sizes = N, C, K, H, W
    taps = {"A": 4, "B": 5}[mask]
    dx = torch.empty_like(x)
    constants = {"TAPS": taps, "PRE_ELU": pre_elu}
    with torch.cuda.device_of(x):
        if dx.numel():
            config = _config("masked_conv3x3", C, x)
            grid: tuple[int, ...] = (_cdiv(N * H * W, config.block), _cdiv(C, kernels.GROUP))
            kernels.masked_conv3x3_backward_input_kernel[grid](
                dy, x, weight, gain, dx, *sizes, residual_scale, **constants, GROUP=kernels.GROUP, BLOCK=config.block,
                num_warps=config.num_warps,
            )  # fmt: skip
        config = _config("masked_conv3x3_weight", K, x)
        rows = C * taps + 1
        programs = min(_resident(x, config), _cdiv(N * H * W, config.block))
        sums = x.new_empty(programs, rows, K)
        if sums.numel():
            kernels.masked_conv3x3_backward_weight_kernel[(programs, _cdiv(rows, kernels.TILE), _cdiv(K, 16))](
                dy, x, sums, *sizes, **constants, TILE=kernels.TILE, BLOCK=config.block, PRECISION=PRECISION,
                num_warps=config.num_warps,
            )  # fmt: skip
    total = residual_scale * sums.sum(0)
    filters = total[:-1].view(C, taps, K).permute(2, 0, 1)
    dweight = torch.zeros_like(weight)
    dweight.flatten(2)[..., :taps] = filters if gain is None else gain[:, None, None] * filters
    dgain = x.new_empty(0) if gain is None else (weight.flatten(2)[..., :taps] * filters).sum((1, 2))
    return dx, dweight, total[-1].clone(), dgain


# --- PixelCNN ---------------------------------------------------------------------------------------------------


MOST_SCRATCH = 1 << 28
"""Floats of scratch memory in all (1 GiB), where one program does not need more."""


class _PixelCNN:
    """Sizes, wiring and scratch memory of one call; kernels/pixelcnn.py says how the memory is laid out."""

    def __init__(
        self, kernel: str, x: Tensor, params: Params, scale: float, block_convs: int, after: list[int], stride: int
    ) -> None:
        N, _, H, W = x.shape
        C, K = params[1].shape[:2]
        L, P, S = len(params[4]), len(params[6]), len(params[3])
        backward = kernel == "pixelcnn_backward"
        config = _config(kernel, C, x)
        area = (H + 1) * (W + 1)
        group = max(1, config.block // area)
        blocks = _cdiv(group * area, config.block)
        plane = _cdiv(2 * (W + 2) + blocks * config.block, 4) * 4
        sets = L + 2 * P + 1
        # What a block needs of another one must be kept: each layer's activations, and for gradients all of them.
        set_stride = C * plane if blocks > 1 or backward else 0
        gradient_stride = C * plane if blocks > 1 else 0
        even = C + C % 2
        program = (2 + K + C) * plane + (sets - 1) * set_stride
        weights = (4 + 9 * K + 5 * S * C + 2 * P * C) * even
        if backward:
            program += 2 * C * plane + (sets - 1) * gradient_stride
            weights = max(weights, (5 * L + 2 * P) * C * even + C * (8 + 9 * (K + K % 2)))
        program = _cdiv(program + weights, 32) * 32
        self.rows = 5 + 9 * K + 1 + L * (5 * C + 1) + 2 * P * (C + 1) + C + 1
        self.programs = min(_resident(x, config), _cdiv(N, group), max(1, MOST_SCRATCH // program))
        self.batch = self.programs * group
        self.scratch = x.new_empty(self.programs * program)
        self.gradient_stride = gradient_stride
        self.sizes = (N, H, W, group, L, S, blocks, plane, set_stride, stride, program)
        self.options = {
            "residual_scale": scale, "C": C, "K": K, "BLOCK_CONVS": block_convs, "AFTER": tuple(after),
            "BLOCK": config.block, "num_warps": config.num_warps,
        }  # fmt: skip


# `wiring` is residual_scale, block_convs, pointwise_after and visible_stride of PixelCNNSpec; context is [N, 0, H, W]
# where there is none.


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_logits`."""
    return _pixelcnn("logits", torch.empty_like(x), x, context, params, wiring)


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_log_prob`."""
    return _pixelcnn("log_prob", x.new_empty(len(x)), x, context, params, wiring)


def _pixelcnn(kind: str, result: Tensor, x: Tensor, context: Tensor, params: Params, wiring: tuple[Any, ...]) -> Tensor:
    kernels = _kernels("pixelcnn", x)
    if x.numel():
        call = _PixelCNN("pixelcnn_forward", x, params, *wiring)
        with torch.cuda.device_of(x):
            kernels.pixelcnn_forward_kernel[(call.programs,)](
                x, context, *params, result, call.scratch, 0, *call.sizes, **call.options, RESULT=kind
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
    kind: str, upstream: Tensor, x: Tensor, context: Tensor, params: Params, wiring: tuple[Any, ...]
) -> list[Tensor]:
    forward, backward = _kernels("pixelcnn", x), _kernels("pixelcnn_backward", x)
    if x.numel() == 0:
        return [torch.zeros_like(t) for t in (x, context, *params)]
    call = _PixelCNN("pixelcnn_backward", x, params, *wiring)
    C = call.options["C"]
    dx, dcontext, sums = torch.empty_like(x), torch.empty_like(context), x.new_zeros(call.programs, call.rows, C)
    image_weight, context_weight, _, hidden_weight, gain, _, pointwise_weight, _, output_weight, output_bias = params
    used = image_weight, context_weight, hidden_weight, gain, pointwise_weight, output_weight, output_bias
    with torch.cuda.device_of(x):
        for begin in range(0, len(x), call.batch):
            forward.pixelcnn_forward_kernel[(call.programs,)](
                x, context, *params, x, call.scratch, begin, *call.sizes, **call.options, RESULT="keep"
            )
            backward.pixelcnn_backward_kernel[(call.programs,)](
                x, *used, upstream, dx, dcontext, sums, call.scratch, begin, *call.sizes, call.gradient_stride,
                **call.options, RESULT=kind, DEPTH=DEPTH, PRECISION=PRECISION,
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


# --- weight normalisation ---------------------------------------------------------------------------------------


def _directions(v: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of the rows' first `live` entries, and 1 / norm [R, 1]; both 0 for a norm below 1e-8."""
    v = v.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    inverse = (norm >= 1e-8) / norm.clamp_min(1e-8)
    return v * inverse, inverse


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `reference.weight_norm`."""
    return g[:, None] * _directions(v, live)[0]


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    unit, inverse = _directions(v, live)
    dw = dw.masked_fill(torch.arange(v.shape[1], device=v.device) >= live[:, None], 0.0)
    dg = (dw * unit).sum(1)
    return g[:, None] * inverse * (dw - dg[:, None] * unit), dg
