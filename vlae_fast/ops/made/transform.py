"""The ops of one autoregressive net of any wiring, `made_forward` and `made_inverse`, and their operators."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.checks import instance
from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.made import cpu, reference
from vlae_fast.ops.made.spec import MADESpec, wiring_of
from vlae_fast.ops.operator import register
from vlae_fast.params import MADEParams

__all__ = ["made_forward", "made_inverse"]


def made_forward(
    x: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None = None,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One masked autoregressive transform, `y = scale(x) * x + shift(x)`, in one pass (arXiv:1705.07057).

    Args:
        x: [N, D] float32, on the CPU: there is no CUDA body.
        params: Plain weights, see `MADEParams`.
        spec: Layers, activation and form of the scales.
        hidden_context: [N, C], the columns of all layers with `context`, added to their sums; None where none has.
        gates: [N, G], those of all layers that are `gated`; None where none is.

    Returns:
        y [N, D] and log_det [N] (the sum of the log scales, nats), differentiable in all tensors.

    Raises:
        TypeError: No tensor, no spec, or wrong dtype.
        ValueError: Wrong shape or device, degrees out of range, positions that are no order; a NonFiniteError for NaN
            or infinity in x, hidden_context or gates.
        NotImplementedError: A CUDA tensor, unless the backend is "reference".
    """
    x, params, hidden_context, gates, in_reference = _check("x", x, params, spec, hidden_context, gates)
    if in_reference:
        return reference.made_forward(x, params, spec, hidden_context, gates)
    y, log_det = torch.ops.vlae_fast.made_forward(x, list(params), hidden_context, gates, *wiring_of(spec))
    return y, log_det


def made_inverse(
    y: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None = None,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The x [N, D] of which `made_forward` makes y [N, D], incremental: each unit is computed once.

    Arguments and errors as for `made_forward`. Returns x and the log_det [N] of this direction, differentiable in all
    tensors by the implicit function theorem: a gradient takes little longer than one of `made_forward`.
    """
    y, params, hidden_context, gates, in_reference = _check("y", y, params, spec, hidden_context, gates)
    if in_reference:
        return reference.made_inverse(y, params, spec, hidden_context, gates)
    x, log_det = torch.ops.vlae_fast.made_inverse(y, list(params), hidden_context, gates, *wiring_of(spec))
    return x, log_det


def _check(
    name: str,
    value: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None,
    gates: Tensor | None,
) -> tuple[Tensor, MADEParams, Tensor | None, Tensor | None, bool]:
    """The tensors, contiguous and of fitting sizes, and whether the reference is to run."""
    instance("spec", spec, MADESpec)
    arguments = Arguments("made")
    value = arguments.tensor(name, value)
    params = arguments.params(params)
    hidden_context = arguments.optional("hidden_context", hidden_context)
    gates = arguments.optional("gates", gates)
    spec.check(arguments.sizes)
    if arguments.reference:
        values.order(params.degrees, params.positions)
        values.finite(**{name: value}, hidden_context=hidden_context, gates=gates)
    return value, params, hidden_context, gates, arguments.reference


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any, at: Tensor) -> None:
    _, params, hidden_context, gates, *ctx.wiring = inputs
    ctx.save_for_backward(at, hidden_context, gates, *params)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _setup_context(ctx, inputs, output, inputs[0])


def _setup_inverse(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _setup_context(ctx, inputs, output, output[0])


def _backward(ctx: Any, dresult: Tensor, dlog_det: Tensor, inverse: bool) -> tuple[Any, ...]:
    x, hidden_context, gates, *params = ctx.saved_tensors
    operator = getattr(torch.ops.vlae_fast, f"made_{'inverse' if inverse else 'forward'}_backward")
    dx, dweight, dbias, dcontext, dgates = operator(
        dresult.contiguous(), dlog_det.contiguous(), x, params, hidden_context, gates, *ctx.wiring
    )
    optional = None if hidden_context is None else dcontext, None if gates is None else dgates
    return dx, [dweight, dbias, None, None], *optional, *[None] * len(ctx.wiring)


def _forward_backward(ctx: Any, dresult: Tensor, dlog_det: Tensor) -> tuple[Any, ...]:
    return _backward(ctx, dresult, dlog_det, False)


def _inverse_backward(ctx: Any, dresult: Tensor, dlog_det: Tensor) -> tuple[Any, ...]:
    return _backward(ctx, dresult, dlog_det, True)


def _fake(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0])


def _backward_fake(
    dresult: Tensor,
    dlog_det: Tensor,
    x: Tensor,
    params: list[Tensor],
    hidden_context: Tensor | None,
    gates: Tensor | None,
    *wiring: Any,
) -> list[Tensor]:
    optional = (x.new_empty(0) if t is None else torch.empty_like(t) for t in (hidden_context, gates))
    return [torch.empty_like(x), *(torch.empty_like(p) for p in params[:2]), *optional]


_NET = "Tensor[] params, Tensor? hidden_context, Tensor? gates"
_WIRING = "int[] layers, int activation, int scale, float first, float second"
for _op, _body, _gradient, _setup, _formula in (
    ("made_forward", cpu.made_forward, cpu.made_forward_backward, _setup_forward, _forward_backward),
    ("made_inverse", cpu.made_inverse, cpu.made_inverse_backward, _setup_inverse, _inverse_backward),
):
    register(
        f"{_op}_backward(Tensor dresult, Tensor dlog_det, Tensor x, {_NET}, {_WIRING}) -> Tensor[]",
        _gradient,
        _backward_fake,
    )
    register(f"{_op}(Tensor x, {_NET}, {_WIRING}) -> (Tensor, Tensor)", _body, _fake, _setup, _formula)
