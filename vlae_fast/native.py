"""CPU bodies of the operators: addresses and sizes go to the compiled C++ (csrc/vlae.h).

`vlae_fast.ops` registers these functions and checks their arguments with messages for people; `operands` makes sure
that no call, however made, lets native code read or write out of bounds. `values` looks at values.
"""

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor

from vlae_fast import _native, implicit, operands, values
from vlae_fast.operands import addresses

__all__ = [
    "isa",
    "keep_freed_memory",
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
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


def isa() -> str:
    """Name of the instruction set that the compiled bodies use here: avx512, avx2 or baseline."""
    return _native.isa()


def usable_isas() -> list[str]:
    """Names of all that this processor can use, best first; the environment variable VLAE_FAST_ISA forces one."""
    return _native.usable_isas()


def keep_freed_memory() -> None:
    """Tells the C library (glibc) to keep freed memory for the next step instead of giving it back each time.

    Worth a twentieth of a training step's time; for processes of our own, not for a library to decide. Blocks of 32 MiB
    and more, as only large images need them, are given back: else they would lie beside one another.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        for option, size in ((-1, 1 << 30), (-3, 1 << 25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, size)


_CPU = torch.device("cpu")


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
    sizes = operands.masked_conv3x3(
        _CPU, mask, {"x": x, "weight": weight, "bias": bias, "gain": gain, "residual": residual}
    )
    values.finite(x=x, residual=residual)
    y = x.new_empty(sizes.N, sizes.K, sizes.H, sizes.W)
    inputs = addresses(x, weight, bias, gain, residual)
    _native.masked_conv3x3(sizes, pre_elu, residual_scale, *inputs, torch.get_num_threads(), y.data_ptr())
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    sizes = operands.masked_conv3x3(_CPU, mask, {"x": x, "weight": weight, "gain": gain, "dy": dy})
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), x.new_empty(sizes.K)
    dgain = x.new_empty(0 if gain is None else sizes.K)
    inputs, outputs = addresses(dy, x, weight, gain), addresses(dx, dweight, dbias, dgain)
    _native.masked_conv3x3_backward(sizes, pre_elu, residual_scale, *inputs, torch.get_num_threads(), *outputs)
    return dx, dweight, dbias, dgain


# --- PixelCNN ---------------------------------------------------------------------------------------------------

Params = list[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""


def _pixelcnn(params: Params, wiring: tuple[Any, ...], **images: Tensor | None) -> tuple[Any, list[int]]:
    """Sizes with wiring, and addresses of the parameters: the leading arguments of the native functions."""
    scale, block_convs, after, stride = wiring
    sizes = operands.pixelcnn(_CPU, params, images, block_convs, after, stride)
    return _native.PixelCNNArgs((*sizes, block_convs, stride), scale, after), addresses(*params)


# `wiring` is residual_scale, block_convs, pointwise_after and visible_stride of PixelCNNSpec; context is [N, 0, H, W]
# where there is none.


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_logits`."""
    call = _pixelcnn(params, wiring, x=x, context=context)
    values.finite(x=x, context=context)
    logits = torch.empty_like(x)
    _native.pixelcnn_logits(*call, *addresses(x, context), torch.get_num_threads(), logits.data_ptr())
    return logits


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `reference.pixelcnn_log_prob`."""
    call = _pixelcnn(params, wiring, x=x, context=context)
    values.binary("x", x)
    values.finite(context=context)
    log_prob = x.new_empty(len(x))
    _native.pixelcnn_log_prob(*call, *addresses(x, context), torch.get_num_threads(), log_prob.data_ptr())
    return log_prob


def pixelcnn_logits_backward(dlogits: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_logits`."""
    call = _pixelcnn(params, wiring, x=x, context=context, dlogits=dlogits)
    return _pixelcnn_backward(call, x, context, params, dlogits, None)


def pixelcnn_log_prob_backward(
    dlog_prob: Tensor, x: Tensor, context: Tensor, params: Params, *wiring: Any
) -> list[Tensor]:
    """Gradients [dx, dcontext, *dparams] of `pixelcnn_log_prob`."""
    call = _pixelcnn(params, wiring, x=x, context=context, dlog_prob=dlog_prob)
    return _pixelcnn_backward(call, x, context, params, None, dlog_prob)


def _pixelcnn_backward(
    call: tuple[Any, list[int]],
    x: Tensor,
    context: Tensor,
    params: Params,
    dlogits: Tensor | None,
    dlog_prob: Tensor | None,
) -> list[Tensor]:
    if x.numel() == 0:  # nor is there an address of dlogits that would tell it from none
        return [torch.zeros_like(t) for t in (x, context, *params)]
    gradients = [torch.empty_like(t) for t in (x, context, *params)]
    inputs, (dx, dcontext, *dparams) = addresses(x, context, dlogits, dlog_prob), addresses(*gradients)
    _native.pixelcnn_backward(*call, *inputs, torch.get_num_threads(), dx, dcontext, dparams)
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
    wiring = residual_scale, block_convs, pointwise_after, visible_stride
    call = _pixelcnn(params, wiring, context=context, uniforms=uniforms, given=given)
    values.finite(context=context)
    values.uniform("uniforms", uniforms)
    if given is not None:
        values.within("given", given, "values -1, 0 or 1", -1, 1)
    x = uniforms.new_empty(len(uniforms), 1, *uniforms.shape[1:])
    inputs = addresses(context, uniforms, given)
    _native.pixelcnn_sample(*call, *inputs, temperature, torch.get_num_threads(), x.data_ptr())
    values.drawn(x)
    return x


# --- MADE flow --------------------------------------------------------------------------------------------------


def _made_flow(params: Params, **tensors: Tensor | None) -> tuple[Any, ...]:
    """Sizes, whether there is a scale, addresses of the parameters: the leading arguments of the native functions."""
    sizes, scale = operands.made_flow(_CPU, params, tensors)
    values.degrees(params[6], sizes.D)
    return sizes, scale, addresses(*params)


def made_flow_forward(z: Tensor, params: Params, hidden_context: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `reference.made_flow_forward`."""
    call = _made_flow(params, z=z, hidden_context=hidden_context)
    values.finite(z=z, hidden_context=hidden_context)
    eps, log_det = torch.empty_like(z), z.new_empty(len(z))
    inputs, outputs = addresses(z, hidden_context), addresses(eps, log_det)
    _native.made_flow_forward(*call, *inputs, torch.get_num_threads(), *outputs)
    return eps, log_det


def made_flow_forward_backward(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None
) -> list[Tensor]:
    """Gradients [dz, dhidden_context (may be empty), *dparams without degrees] of `made_flow_forward`."""
    call = _made_flow(params, z=z, hidden_context=hidden_context, deps=deps, dlog_det=dlog_det)
    dz, dparams = torch.empty_like(z), [torch.empty_like(p) for p in params[:6]]
    dhidden_context = None if hidden_context is None else torch.empty_like(hidden_context)
    inputs, outputs = addresses(z, hidden_context, deps, dlog_det), addresses(dz, dhidden_context)
    _native.made_flow_backward(*call, *inputs, torch.get_num_threads(), *outputs, addresses(*dparams))
    return [dz, z.new_empty(0) if dhidden_context is None else dhidden_context, *dparams]


def made_flow_inverse(eps: Tensor, params: Params, hidden_context: Tensor | None) -> Tensor:
    """See `reference.made_flow_inverse`."""
    call = _made_flow(params, eps=eps, hidden_context=hidden_context)
    values.finite(eps=eps, hidden_context=hidden_context)
    z = torch.empty_like(eps)
    _native.made_flow_inverse(*call, *addresses(eps, hidden_context), torch.get_num_threads(), z.data_ptr())
    return z


def made_flow_inverse_backward(dz: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None) -> list[Tensor]:
    """Gradients [deps, dhidden_context (may be empty), *dparams without degrees] of `made_flow_inverse`."""
    _made_flow(params, z=z, hidden_context=hidden_context, dz=dz)
    deps = implicit.deps(dz, z, params, hidden_context)
    return [deps, *made_flow_forward_backward(-deps, z.new_zeros(len(z)), z, params, hidden_context)[1:]]


# --- weight normalisation ---------------------------------------------------------------------------------------


def weight_norm(v: Tensor, g: Tensor, live: Tensor) -> Tensor:
    """See `reference.weight_norm`."""
    R, n = operands.weight_norm(_CPU, {"v": v, "g": g, "live": live})
    values.within("live", live, f"values in 0..{n}", 0, n)
    w = torch.empty_like(v)
    _native.weight_norm(R, n, *addresses(v, g, live), torch.get_num_threads(), w.data_ptr())
    return w


def weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (dv, dg) of `weight_norm`."""
    R, n = operands.weight_norm(_CPU, {"v": v, "g": g, "live": live, "dw": dw})
    values.within("live", live, f"values in 0..{n}", 0, n)
    dv, dg = torch.empty_like(v), torch.empty_like(g)
    _native.weight_norm_backward(R, n, *addresses(dw, v, g, live), torch.get_num_threads(), *addresses(dv, dg))
    return dv, dg
