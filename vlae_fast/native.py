"""CPU bodies of the operators: addresses and sizes go to the compiled C++ (csrc/vlae.h).

`vlae_fast.ops` registers these functions and checks their arguments with messages for people; what stands here makes
sure that no call, however made, lets native code read or write out of bounds, and checks the values.
"""

import ctypes
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import _native

__all__ = [
    "isa",
    "keep_freed_memory",
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "masked_conv3x3",
    "masked_conv3x3_backward",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
    "usable_isas",
    "weight_norm",
    "weight_norm_backward",
]


BELOW_ONE = 1.0 - 2.0**-24
"""The largest float32 below 1."""


def isa() -> str:
    """Name of the instruction set that the compiled bodies use here: avx512, avx2 or baseline."""
    return _native.isa()


def usable_isas() -> list[str]:
    """Names of all that this processor can use, best first; the environment variable VLAE_FAST_ISA forces one."""
    return _native.usable_isas()


def keep_freed_memory() -> None:
    """Tells the C library (glibc) to keep freed memory for the next step instead of giving it back each time.

    Worth a twentieth of a training step's time; for processes of our own, not for a library to decide.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, 1 << 30)


def _address(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """Address of a tensor that has exactly this shape and dtype and is contiguous; 0 for None."""
    if tensor is None:
        return 0
    if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError(
            f"{name}: a contiguous {dtype} CPU tensor of shape {shape} wanted, "
            f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
    return tensor.data_ptr()


def _values(tensor: Tensor) -> NDArray[Any]:
    """The values for numpy to look at: torch would use its own threads, which hang in a forked process."""
    return tensor.detach().numpy()


def _check_finite(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and not np.isfinite(_values(tensor)).all():
            raise ValueError(f"{name}: finite values wanted, got NaN or infinity")


def _check_binary(x: Tensor) -> None:
    values = _values(x)
    if not ((values == 0) | (values == 1)).all():
        raise ValueError("x: binary pixels (0 or 1) wanted, got other values")


def _check_range(name: str, tensor: Tensor, wanted: str, low: float, high: float) -> None:
    """Values in low..high; NaN is not."""
    if tensor.numel():
        least, most = _values(tensor).min(), _values(tensor).max()
        if not (least >= low and most <= high):
            raise ValueError(f"{name}: {wanted} wanted, got {least} to {most}")


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
    N, C, H, W = x.shape
    K = weight.shape[0]
    _check_finite(x=x, residual=residual)
    y = x.new_empty(N, K, H, W)
    _native.masked_conv3x3(
        (N, C, K, H, W, {"A": 4, "B": 5}[mask]),
        pre_elu,
        residual_scale,
        _address("x", x, (N, C, H, W)),
        _address("weight", weight, (K, C, 3, 3)),
        _address("bias", bias, (K,)),
        _address("gain", gain, (K,)),
        _address("residual", residual, (N, K, H, W)),
        torch.get_num_threads(),
        y.data_ptr(),
    )
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    N, C, H, W = x.shape
    K = weight.shape[0]
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), x.new_empty(K)
    dgain = x.new_empty(0 if gain is None else K)
    _native.masked_conv3x3_backward(
        (N, C, K, H, W, {"A": 4, "B": 5}[mask]),
        pre_elu,
        residual_scale,
        _address("dy", dy, (N, K, H, W)),
        _address("x", x, (N, C, H, W)),
        _address("weight", weight, (K, C, 3, 3)),
        _address("gain", gain, (K,)),
        torch.get_num_threads(),
        *(t.data_ptr() for t in (dx, dweight, dbias, dgain)),
    )
    return dx, dweight, dbias, dgain


# --- PixelCNN ---------------------------------------------------------------------------------------------------

Params = list[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""


class _PixelCNN:
    """Sizes, wiring and addresses of one call."""

    def __init__(
        self, images: Tensor, params: Params, scale: float, block_convs: int, after: list[int], stride: int
    ) -> None:
        N, _, H, W = images.shape
        C, K = params[1].shape[:2]
        L, P, S = len(params[4]), len(params[6]), len(params[3])
        shapes = (
            (C, 1, 3, 3), (C, K, 3, 3), (C,), (S, C, C, 3, 3), (L, C), (L, C), (P, 2, C, C), (P, 2, C), (C,), (1,),
        )  # fmt: skip
        blocks = L // block_convs if block_convs > 0 else 0
        if S not in (1, L) or len(after) != P or stride < 1 or blocks * block_convs != L:
            raise ValueError(f"spec: does not fit L = {L}, S = {S}, P = {P}")
        if any(not 0 <= position < blocks for position in after):
            raise ValueError(f"spec: pointwise_after {after} wanted in 0..{blocks - 1}")
        self.image_shape, self.context_shape = (N, 1, H, W), (N, K, H, W)
        self.args = _native.PixelCNNArgs((N, H, W, C, K, L, P, S, block_convs, stride), scale, after)
        self.params = tuple(_address(f"params[{i}]", t, shapes[i]) for i, t in enumerate(params))

    def operands(self, x: Tensor, context: Tensor) -> tuple[Any, ...]:
        """The leading arguments of the native functions."""
        images = _address("x", x, self.image_shape), _address("context", context, self.context_shape)
        return self.args, self.params, *images


# `wiring` is residual_scale, block_convs, pointwise_after and visible_stride of PixelCNNSpec; context is [N, 0, H, W]
# where there is none.


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_logits`."""
    call = _PixelCNN(x, params, *wiring)
    _check_finite(x=x, context=context)
    logits = torch.empty_like(x)
    _native.pixelcnn_logits(*call.operands(x, context), torch.get_num_threads(), logits.data_ptr())
    return logits


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_log_prob`."""
    call = _PixelCNN(x, params, *wiring)
    _check_binary(x)
    _check_finite(context=context)
    log_prob = x.new_empty(len(x))
    _native.pixelcnn_log_prob(*call.operands(x, context), torch.get_num_threads(), log_prob.data_ptr())
    return log_prob


def pixelcnn_logits_backward(dlogits: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_logits`."""
    call = _PixelCNN(x, params, *wiring)
    return _pixelcnn_backward(call, x, context, params, _address("dlogits", dlogits, call.image_shape), 0)


def pixelcnn_log_prob_backward(
    dlog_prob: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any
) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_log_prob`."""
    call = _PixelCNN(x, params, *wiring)
    return _pixelcnn_backward(call, x, context, params, 0, _address("dlog_prob", dlog_prob, call.image_shape[:1]))


def _pixelcnn_backward(
    call: _PixelCNN, x: Tensor, context: Tensor, params: Params, dlogits: int, dlog_prob: int
) -> list[Tensor]:
    if x.numel() == 0:  # nor is there an address of dlogits that would tell it from none
        return [torch.zeros_like(t) for t in (x, context, *params)]
    dx, dcontext, *dparams = gradients = [torch.empty_like(t) for t in (x, context, *params)]
    outputs = dx.data_ptr(), dcontext.data_ptr(), tuple(t.data_ptr() for t in dparams)
    _native.pixelcnn_backward(*call.operands(x, context), dlogits, dlog_prob, torch.get_num_threads(), *outputs)
    return gradients


def pixelcnn_sample(
    context: Tensor,
    params: Params,
    uniforms: Tensor,
    residual_scale: float,
    block_convs: int,
    pointwise_after: list[int],
    visible_stride: int,
    temperature: float,
    given: Tensor | None,
) -> Tensor:
    """See `reference.pixelcnn_sample`."""
    x = uniforms.new_empty(len(uniforms), 1, *uniforms.shape[1:])
    call = _PixelCNN(x, params, residual_scale, block_convs, pointwise_after, visible_stride)
    _check_finite(context=context)
    _check_range("uniforms", uniforms, "values in [0, 1)", 0.0, BELOW_ONE)
    if given is not None:
        _check_range("given", given, "values -1, 0 or 1", -1, 1)
    _native.pixelcnn_sample(
        call.args,
        call.params,
        _address("context", context, call.context_shape),
        _address("uniforms", uniforms, tuple(uniforms.shape)),
        _address("given", given, tuple(uniforms.shape), torch.int8),
        temperature,
        torch.get_num_threads(),
        x.data_ptr(),
    )
    return x


# --- MADE flow --------------------------------------------------------------------------------------------------


class _MADEFlow:
    """Sizes and addresses of one call."""

    def __init__(self, y: Tensor, params: Params, hidden_context: Tensor | None) -> None:
        N, D = y.shape
        T, M = params[1].shape
        R = params[5].shape[1]
        if R not in (D, 2 * D):
            raise ValueError(f"params: bias3 has {R} rows, {D} or {2 * D} wanted")
        shapes = ((T, M, D), (T, M), (T, M, M), (T, M), (T, R, M), (T, R))
        degrees = params[6]
        self.degrees = _address("params[6]", degrees, (M,), torch.int64)
        order = degrees.numpy()  # a few microseconds less than torch
        if M and not (order[0] >= 0 and order[-1] < D and (order[1:] >= order[:-1]).all()):
            raise ValueError(f"params: degrees wanted non-decreasing in 0..{D - 1}")
        self.sizes, self.scale = (N, D, M, T), R != D
        self.params = (*(_address(f"params[{i}]", t, shapes[i]) for i, t in enumerate(params[:6])), self.degrees)
        self.y = _address("z", y, (N, D))
        self.hidden_context = _address("hidden_context", hidden_context, (N, T, M))


def made_flow_forward(z: Tensor, params: Params, hidden_context: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `reference.made_flow_forward`."""
    call = _MADEFlow(z, params, hidden_context)
    _check_finite(z=z, hidden_context=hidden_context)
    eps, log_det = torch.empty_like(z), z.new_empty(len(z))
    threads = torch.get_num_threads()
    _native.made_flow_forward(
        call.sizes, call.scale, call.params, call.y, call.hidden_context, threads, eps.data_ptr(), log_det.data_ptr()
    )
    return eps, log_det


def made_flow_forward_backward(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None
) -> list[Tensor]:
    """Gradients [dz, dhidden_context (may be empty), *dparams without degrees] of `made_flow_forward`."""
    call = _MADEFlow(z, params, hidden_context)
    dz, dparams = torch.empty_like(z), [torch.empty_like(p) for p in params[:6]]
    dhidden_context = z.new_empty(0) if hidden_context is None else torch.empty_like(hidden_context)
    _native.made_flow_backward(
        call.sizes,
        call.scale,
        call.params,
        call.y,
        call.hidden_context,
        _address("deps", deps, tuple(z.shape)),
        _address("dlog_det", dlog_det, tuple(z.shape[:1])),
        torch.get_num_threads(),
        dz.data_ptr(),
        0 if hidden_context is None else dhidden_context.data_ptr(),
        tuple(t.data_ptr() for t in dparams),
    )
    return [dz, dhidden_context, *dparams]


def made_flow_inverse(eps: Tensor, params: Params, hidden_context: Tensor | None) -> Tensor:
    """See `reference.made_flow_inverse`."""
    call = _MADEFlow(eps, params, hidden_context)
    _check_finite(eps=eps, hidden_context=hidden_context)
    z = torch.empty_like(eps)
    _native.made_flow_inverse(
        call.sizes, call.scale, call.params, call.y, call.hidden_context, torch.get_num_threads(), z.data_ptr()
    )
    return z


# --- weight normalisation ---------------------------------------------------------------------------------------


def _weight_norm_inputs(v: Tensor, g: Tensor, live: Tensor) -> tuple[int, int, int]:
    """Addresses."""
    R, n = v.shape
    _check_range("live", live, f"values in 0..{n}", 0, n)
    return _address("v", v, (R, n)), _address("g", g, (R,)), _address("live", live, (R,), torch.int64)


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `reference.weight_norm`."""
    w = torch.empty_like(v)
    _native.weight_norm(*v.shape, *_weight_norm_inputs(v, g, live), torch.get_num_threads(), w.data_ptr())
    return w


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    dv, dg = torch.empty_like(v), torch.empty_like(g)
    _native.weight_norm_backward(
        *v.shape,
        _address("dw", dw, tuple(v.shape)),
        *_weight_norm_inputs(v, g, live),
        torch.get_num_threads(),
        dv.data_ptr(),
        dg.data_ptr(),
    )
    return dv, dg
