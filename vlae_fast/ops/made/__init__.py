"""The ops of a MADE flow, `made_flow_forward` and `made_flow_inverse`, and their operators."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.ops import values
from vlae_fast.ops.arguments import Arguments
from vlae_fast.ops.made import cpu, reference
from vlae_fast.ops.operator import register
from vlae_fast.params import MADEFlowParams

__all__ = ["made_flow_forward", "made_flow_inverse"]


def made_flow_forward(z: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Density direction of an autoregressive flow, one parallel pass a step (the paper's eq. 13).

    T steps `y = y - mu_t(y)`, or `y = (y - mu_t(y)) * exp(-s_t(y))`; the order of the D variables is reversed after
    every step, the last included.

    Args:
        z: [N, D] float32.
        params: Plain weights, see `MADEFlowParams`.
        hidden_context: [N, T, M], added to the first hidden layer before its ReLU, or None.

    Returns:
        eps [N, D] and log_det [N] (minus the sum of all s, nats), differentiable in all tensors.

    Raises:
        TypeError: No tensor, or wrong dtype.
        ValueError: Wrong shape or device, or degrees that are not sorted in 0..D-1; a NonFiniteError for NaN or
            infinity in z or hidden_context.
    """
    z, params, hidden_context, in_reference = _check("z", z, params, hidden_context)
    if in_reference:
        return reference.made_flow_forward(z, params, hidden_context)
    eps, log_det = torch.ops.vlae_fast.made_flow_forward(z, list(params), hidden_context)
    return eps, log_det


def made_flow_inverse(eps: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None) -> Tensor:
    """Sampling direction: z [N, D] from eps [N, D], incremental, each hidden unit computed once.

    Arguments and errors as for `made_flow_forward`, of which it is the inverse. Differentiable in all tensors by the
    implicit function theorem: a gradient builds the Jacobian of every sample and takes about D times as long as one
    of `made_flow_forward`. The log-determinant of the inverse is minus that of `made_flow_forward(z)`.
    """
    eps, params, hidden_context, in_reference = _check("eps", eps, params, hidden_context)
    if in_reference:
        return reference.made_flow_inverse(eps, params, hidden_context)
    z: Tensor = torch.ops.vlae_fast.made_flow_inverse(eps, list(params), hidden_context)
    return z


def _check(
    name: str, y: Tensor, params: MADEFlowParams, hidden_context: Tensor | None
) -> tuple[Tensor, MADEFlowParams, Tensor | None, bool]:
    """The arguments, contiguous and of fitting sizes, and whether the reference is to run."""
    arguments = Arguments("made_flow")
    y = arguments.tensor(name, y)
    params = arguments.params(params)
    hidden_context = arguments.optional("hidden_context", hidden_context)
    if arguments.reference:
        values.degrees(params.degrees, arguments.sizes["D"])
        values.finite(**{name: y}, hidden_context=hidden_context)
    return y, params, hidden_context, arguments.reference


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, params, hidden_context = inputs
    ctx.save_for_backward(z, hidden_context, *params)


def _backward(ctx: Any, deps: Tensor, dlog_det: Tensor) -> tuple[Any, ...]:
    z, hidden_context, *params = ctx.saved_tensors
    dz, dhidden_context, *dparams = torch.ops.vlae_fast.made_flow_forward_backward(
        deps.contiguous(), dlog_det.contiguous(), z, params, hidden_context
    )
    return dz, [*dparams, None], None if hidden_context is None else dhidden_context


def _fake(z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), z.new_empty(z.shape[0])


def _backward_fake(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: list[Tensor], hidden_context: Tensor | None
) -> list[Tensor]:
    dhidden_context = z.new_empty(0) if hidden_context is None else torch.empty_like(hidden_context)
    return [torch.empty_like(z), dhidden_context, *(torch.empty_like(p) for p in params[:-1])]


def _setup_inverse_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, params, hidden_context = inputs
    ctx.save_for_backward(output, hidden_context, *params)


def _inverse_backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    z, hidden_context, *params = ctx.saved_tensors
    deps, dhidden_context, *dparams = torch.ops.vlae_fast.made_flow_inverse_backward(
        dz.contiguous(), z, params, hidden_context
    )
    return deps, [*dparams, None], None if hidden_context is None else dhidden_context


def _inverse_fake(eps: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(eps)


def _inverse_backward_fake(dz: Tensor, *rest: Any) -> list[Tensor]:
    return _backward_fake(dz, dz, *rest)


_FLOW = "Tensor[] params, Tensor? hidden_context"
register(
    f"made_flow_forward_backward(Tensor deps, Tensor dlog_det, Tensor z, {_FLOW}) -> Tensor[]",
    cpu.made_flow_forward_backward,
    _backward_fake,
)
register(
    f"made_flow_forward(Tensor z, {_FLOW}) -> (Tensor, Tensor)",
    cpu.made_flow_forward,
    _fake,
    _setup_context,
    _backward,
)
register(
    f"made_flow_inverse_backward(Tensor dz, Tensor z, {_FLOW}) -> Tensor[]",
    cpu.made_flow_inverse_backward,
    _inverse_backward_fake,
)
register(
    f"made_flow_inverse(Tensor eps, {_FLOW}) -> Tensor",
    cpu.made_flow_inverse,
    _inverse_fake,
    _setup_inverse_context,
    _inverse_backward,
)
