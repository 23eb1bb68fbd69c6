"""CPU bodies of the PixelCNN's ops: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands
from vlae_fast.ops.pixelcnn.wiring import stage_table

__all__ = [
    "pixelcnn_code",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
]

_CPU = torch.device("cpu")
Params = list[Tensor]
"""The fields of PixelCNNParams, in order."""
Call = tuple[tuple[Any, ...], list[int]]


def _pixelcnn(params: Params, wiring: tuple[Any, ...], **images: Tensor | None) -> Call:
    """PixelCNN of csrc/vlae.h, and addresses of the parameters: the leading arguments of the native functions."""
    sizes = operands("pixelcnn", _CPU, params, **images)
    stages, scale, stride = wiring
    table = stage_table(stages, stride, sizes, _CPU)
    return (*(sizes[a] for a in "NHWCKLPS"), table.data_ptr(), scale, stride), addresses(*params)


# `wiring` is the rows of PixelCNNSpec.stages, residual_scale and visible_stride; context is [N, 0, H, W] where there is
# none.


def pixelcnn_logits(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_logits`."""
    call = _pixelcnn(params, wiring, x=x, context=context)
    values.finite(x=x, context=context)
    logits = torch.empty_like(x)
    _native.pixelcnn_logits(*call, *addresses(x, context), torch.get_num_threads(), logits.data_ptr())
    return logits


def pixelcnn_log_prob(x: Tensor, context: Tensor, params: Params, *wiring: Any) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_log_prob`."""
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
    call: Call,
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
    stages: list[int],
    residual_scale: float,
    visible_stride: int,
    temperature: float,
    given: Tensor | None,
) -> Tensor:
    """See `vlae_fast.reference.pixelcnn_sample`."""
    call = _pixelcnn(params, (stages, residual_scale, visible_stride), context=context, uniforms=uniforms, given=given)
    values.finite(context=context)
    values.uniform("uniforms", uniforms)
    if given is not None:
        values.within("given", given, "values -1, 0 or 1", -1, 1)
    x = uniforms.new_empty(len(uniforms), 1, *uniforms.shape[1:])
    inputs = addresses(context, uniforms, given)
    _native.pixelcnn_sample(*call, *inputs, temperature, torch.get_num_threads(), x.data_ptr())
    values.drawn(x)
    return x


def pixelcnn_code(
    x: Tensor, context: Tensor, params: Params, wiring: tuple[Any, ...], coders: tuple[int, ...], pop: bool
) -> None:
    """Pushes the pixels of x, or pops them into it; `coders` are addresses and the room of `codec.ans.Coders`."""
    call = _pixelcnn(params, wiring, x=x, context=context)
    values.finite(context=context)
    if not pop:
        values.binary("x", x)
    _native.pixelcnn_code(*call, context.data_ptr(), coders, pop, torch.get_num_threads(), x.data_ptr())
