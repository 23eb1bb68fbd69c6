"""CUDA bodies of the operators: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

`vlae_fast.ops` registers the functions of this module under their names, with the same arguments as those of
`native.py`. No function here synchronises with the host: values on a GPU are not checked. All memory comes from
torch's caching allocator before a launch, and launches go to the current stream: CUDA graphs can capture them.
"""

from typing import Any

import torch
from torch import Tensor

from vlae_fast import masks

Params = list[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""


def _kernels(name: str) -> Any:
    """The module of Triton kernels of this name."""
    import importlib

    return importlib.import_module(f"vlae_fast.kernels.{name}")


def _programs(x: Tensor, per_multiprocessor: int) -> int:
    """How many programs run at once on the device of x; two where there is only Triton's interpreter."""
    if x.device.type == "cpu":
        return 2
    return per_multiprocessor * torch.cuda.get_device_properties(x.device).multi_processor_count


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
    N, C, H, W = x.shape
    K = len(weight)
    y = x.new_empty(N, K, H, W)
    if y.numel():
        grid = (-(-N * H * W // 512), -(-K // 12))
        with torch.cuda.device_of(x):
            _kernels("masked_conv").masked_conv3x3_forward_kernel[grid](
                x, weight, bias, gain, residual, y, N, C, K, H, W, residual_scale, TAPS={"A": 4, "B": 5}[mask],
                PRE_ELU=pre_elu, HAS_GAIN=gain is not None, HAS_RESIDUAL=residual is not None, GROUP=12, BLOCK=512,
                num_warps=4,
            )
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    N, C, H, W = x.shape
    K = len(weight)
    TAPS = {"A": 4, "B": 5}[mask]
    dx = torch.empty_like(x)
    positions = N * H * W
    if dy.numel() == 0 or x.numel() == 0:
        sums = x.new_zeros(1, C * TAPS + 1, K)
    kernels = _kernels("masked_conv")
    with torch.cuda.device_of(x):
        if positions:
            kernels.masked_conv3x3_backward_input_kernel[(-(-positions // 512), -(-C // 12))](
                dy, x, weight, gain, dx, N, C, K, H, W, residual_scale, TAPS=TAPS, PRE_ELU=pre_elu,
                HAS_GAIN=gain is not None, GROUP=12, BLOCK=512, num_warps=4)
            TILE, BLOCK = 64, 32
            sums = x.new_empty(min(_programs(x, 4), -(-positions // BLOCK)), C * TAPS + 1, K)
            kernels.masked_conv3x3_backward_weight_kernel[(len(sums), -(-(C * TAPS + 1) // TILE), -(-K // 16))](
                dy, x, sums, N, C, K, H, W, TAPS=TAPS, PRE_ELU=pre_elu, TILE=TILE, BLOCK=BLOCK, PRECISION="ieee", num_warps=4)
    sums = residual_scale * sums.sum(0)
    taps = sums[:-1].view(C, TAPS, K).permute(2, 0, 1)
    dweight = torch.zeros_like(weight)
    dweight.flatten(2)[..., :TAPS] = taps if gain is None else gain[:, None, None] * taps
    dgain = x.new_empty(0) if gain is None else (weight.flatten(2)[..., :TAPS] * taps).sum((1, 2))
    return dx, dweight, sums[-1].clone(), dgain


class _PixelCNN:
    """Sizes, wiring and memory of one call; see kernels/pixelcnn.py for the layout of the scratch memory."""

    def __init__(
        self, x: Tensor, params: Params, scale: float, block_convs: int, after: list[int], stride: int, backward: bool
    ) -> None:
        N, _, H, W = x.shape
        C, K = params[1].shape[:2]
        L, P, S = len(params[4]), len(params[6]), len(params[3])
        BLOCK, warps = 1024, 8
        area = (H + 1) * (W + 1)
        G = max(1, BLOCK // area)
        blocks = -(-G * area // BLOCK)
        plane = 2 * (W + 2) + blocks * BLOCK
        separate = blocks > 1 or backward
        set_stride = C * plane if separate else 0
        gradient_stride = C * plane if blocks > 1 else 0
        even = C + C % 2
        weights = 4 * even + 9 * K * even + 5 * S * C * even + 2 * P * C * even
        if backward:
            weights += 5 * L * C * even + 2 * P * C * even + 8 * C + 9 * C * (K + K % 2)
            planes = (1 + K) * plane + (L + 2 * P + 1) * set_stride + 2 * C * plane + L * gradient_stride
        else:
            planes = (2 + K) * plane + (L + 2 * P - 1) * set_stride + C * plane
        stride_ = -(-(weights + planes) // 32) * 32
        self.programs = min(_programs(x, 1), -(-N // G))
        self.scratch = x.new_empty(self.programs * stride_)
        self.sizes = dict(N=N, H=H, W=W, G=G, L=L, shared=S, blocks=blocks, plane=plane, set_stride=set_stride,
                          visible_stride=stride, program_stride=stride_, residual_scale=scale)
        self.rows = 5 + 9 * K + 1 + L * (5 * C + 1) + 2 * P * (C + 1) + C + 1
        if backward:
            self.sizes |= dict(gradient_stride=gradient_stride, rows=self.rows)
        self.constants = dict(C=C, K=K, BLOCK_CONVS=block_convs, AFTER=tuple(after), BLOCK=BLOCK, num_warps=warps)


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_logits`."""
    logits = torch.empty_like(x)
    return _pixelcnn_forward(logits, x, context, params, wiring, False)


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_log_prob`."""
    return _pixelcnn_forward(x.new_empty(len(x)), x, context, params, wiring, True)


def _pixelcnn_forward(result, x, context, params, wiring, log_prob):
    call = _PixelCNN(x, params, *wiring, backward=False)
    if len(x):
        with torch.cuda.device_of(x):
            _kernels("pixelcnn").pixelcnn_forward_kernel[(call.programs,)](
                x, context, *params, result, call.scratch, **call.sizes, **call.constants, LOG_PROB=log_prob
            )
    return result


def pixelcnn_logits_backward(dlogits: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_logits`."""
    return _pixelcnn_backward(dlogits, x, context, params, wiring, False)


def pixelcnn_log_prob_backward(
    dlog_prob: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any
) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_log_prob`."""
    return _pixelcnn_backward(dlog_prob, x, context, params, wiring, True)


def _pixelcnn_backward(upstream, x, context, params, wiring, log_prob):
    if len(x) == 0:
        return [torch.zeros_like(t) for t in (x, context, *params)]
    call = _PixelCNN(x, params, *wiring, backward=True)
    C, K = call.constants["C"], call.constants["K"]
    dx, dcontext = torch.empty_like(x), torch.empty_like(context)
    sums = x.new_empty(call.programs, call.rows, C)
    with torch.cuda.device_of(x):
        _kernels("pixelcnn_backward").pixelcnn_backward_kernel[(call.programs,)](
            x, context, *params, upstream, dx, dcontext, sums, call.scratch, **call.sizes, **call.constants,
            LOG_PROB=log_prob, DEPTH=32, PRECISION="ieee"
        )
    L, P = len(params[4]), len(params[6])
    image, contexts, hidden, pointwise, output = sums.sum(0).split(
        [5, 9 * K + 1, L * (5 * C + 1), 2 * P * (C + 1), C + 1]
    )
    dimage = torch.zeros_like(params[0]); dimage.view(C, 9)[:, :4] = image[:4].T
    dcontext_weight = contexts[:-1].view(K, 9, C).permute(2, 0, 1).reshape(C, K, 3, 3)
    hidden = hidden.view(L, 5 * C + 1, C)
    taps = hidden[:, :-1].view(L, C, 5, C).permute(0, 3, 1, 2)  # [L, out, in, tap]
    weight = params[3].flatten(3)[..., :5]
    dgain = (weight * taps).sum((2, 3))
    dtaps = params[4][:, :, None, None] * taps
    dhidden = torch.zeros_like(params[3])
    dhidden.flatten(3)[..., :5] = dtaps.sum(0, keepdim=True) if len(params[3]) == 1 else dtaps
    pointwise = pointwise.view(P, 2, C + 1, C)
    return [dx, dcontext, dimage, dcontext_weight, image[4], dhidden, dgain, hidden[:, -1],
            pointwise[:, :, :-1].transpose(2, 3).contiguous(), pointwise[:, :, -1].contiguous(), output[:-1, 0].contiguous(), output[-1, :1]]
