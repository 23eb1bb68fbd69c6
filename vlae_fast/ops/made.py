"""The ops of a MADE flow, `made_flow_forward` and `made_flow_inverse`, and their operators."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import native, reference
from vlae_fast.ops.backend import Arguments, reference_chosen, register
from vlae_fast.reference import MADEFlowParams

MOST_FLOATS = 1 << 24
"""What a gradient of `made_flow_inverse` builds of Jacobians at once (64 MiB), where one sample does not need more."""


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
        ValueError: Wrong shape or device, degrees that are not sorted in 0..D-1, or NaN or infinity in z or
            hidden_context.
    """
    z, params, hidden_context = _check("z", z, params, hidden_context)
    if reference_chosen():
        return reference.made_flow_forward(z, params, hidden_context)
    eps, log_det = torch.ops.vlae_fast.made_flow_forward(z, list(params), hidden_context)
    return eps, log_det


def made_flow_inverse(eps: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None) -> Tensor:
    """Sampling direction: z [N, D] from eps [N, D], incremental, each hidden unit computed once.

    Arguments and errors as for `made_flow_forward`, of which it is the inverse. Differentiable in all tensors by the
    implicit function theorem: a gradient builds the Jacobian of every sample and takes about D times as long as one
    of `made_flow_forward`. The log-determinant of the inverse is minus that of `made_flow_forward(z)`.
    """
    eps, params, hidden_context = _check("eps", eps, params, hidden_context)
    if reference_chosen():
        return reference.made_flow_inverse(eps, params, hidden_context)
    z: Tensor = torch.ops.vlae_fast.made_flow_inverse(eps, list(params), hidden_context)
    return z


def _check(
    name: str, y: Tensor, params: MADEFlowParams, hidden_context: Tensor | None
) -> tuple[Tensor, MADEFlowParams, Tensor | None]:
    if not isinstance(params, MADEFlowParams):
        raise TypeError(f"params: MADEFlowParams wanted, got {type(params).__name__}")
    arguments = Arguments()
    y = arguments.tensor(name, y, "N D")
    D = y.shape[1]
    shapes = ("T M D", "T M", "T M M", "T M", "T R M", "T R")
    named = zip(MADEFlowParams._fields[:6], params[:6], shapes, strict=True)
    checked = {name: arguments.tensor(f"params.{name}", value, shape) for name, value, shape in named}
    if arguments.sizes["R"] not in (D, 2 * D):
        raise ValueError(f"params.bias3: [T, {D}] or [T, {2 * D}] wanted, got {list(params.bias3.shape)}")
    checked["degrees"] = arguments.tensor("params.degrees", params.degrees, "M", torch.int64)
    if hidden_context is not None:
        hidden_context = arguments.tensor("hidden_context", hidden_context, "N T M")
    return y, MADEFlowParams(**checked), hidden_context


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
    return [torch.empty_like(z), dhidden_context, *(torch.empty_like(p) for p in params[:6])]


def _setup_inverse_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, params, hidden_context = inputs
    ctx.save_for_backward(output, hidden_context, *params)


def _inverse_backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    z, hidden_context, *params = ctx.saved_tensors
    deps, dhidden_context, *dparams = torch.ops.vlae_fast.made_flow_inverse_backward(
        dz.contiguous(), z, params, hidden_context
    )
    return deps, [*dparams, None], None if hidden_context is None else dhidden_context


def _implicit_gradients(dz: Tensor, z: Tensor, params: list[Tensor], hidden_context: Tensor | None) -> list[Tensor]:
    """Gradients [deps, dhidden_context (may be empty), *dparams without degrees] of `made_flow_inverse`.

    As forward(z, params) = eps, J dz + (d forward / d params) dparams = deps with J the Jacobian in z. So a gradient
    of z times the inverse of J is that of eps, and minus that, taken back through forward, is that of params.
    """
    flow = reference.connected(MADEFlowParams(*params), z.shape[1])
    count = max(1, MOST_FLOATS // max(1, flow.weight3[:1].numel()))  # samples whose Jacobians are built at once
    contexts = itertools.repeat(None) if hidden_context is None else hidden_context.split(count)
    with torch.autocast(z.device.type, enabled=False):
        parts = [_solve(*part, flow) for part in zip(dz.split(count), z.split(count), contexts)]  # noqa: B905
    deps = torch.cat(parts)
    _, dhidden_context, *dparams = torch.ops.vlae_fast.made_flow_forward_backward(
        -deps, z.new_zeros(len(z)), z, params, hidden_context
    )
    return [deps, dhidden_context, *dparams]


def _solve(dz: Tensor, z: Tensor, hidden_context: Tensor | None, flow: MADEFlowParams) -> Tensor:
    """The deps [N, D] with J^T deps = dz, step by step: before its reversal a step's Jacobian is lower triangular."""
    D, y, gradient = z.shape[1], z, dz
    for t in range(len(flow.weight1)):
        h1 = F.linear(y, flow.weight1[t]) + flow.bias1[t]
        if hidden_context is not None:
            h1 = h1 + hidden_context[:, t]
        h2 = F.linear(h1.relu(), flow.weight2[t]) + flow.bias2[t]
        out = F.linear(h2.relu(), flow.weight3[t]) + flow.bias3[t]
        slopes = flow.weight3[t] * (h2 > 0)[:, None] @ flow.weight2[t] * (h1 > 0)[:, None] @ flow.weight1[t]
        jacobian, y = torch.eye(D, device=y.device) - slopes[:, :D], y - out[:, :D]
        if out.shape[1] > D:
            shrink = torch.exp(-out[:, D:])
            y = y * shrink
            jacobian = shrink[..., None] * jacobian - y[..., None] * slopes[:, D:]
        gradient = torch.linalg.solve_triangular(jacobian.mT, gradient[..., None], upper=True)[..., 0].flip(1)
        y = y.flip(1)
    return gradient


def _inverse_fake(eps: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(eps)


def _inverse_backward_fake(dz: Tensor, *rest: Any) -> list[Tensor]:
    return _backward_fake(dz, dz, *rest)


_FLOW = "Tensor[] params, Tensor? hidden_context"
register(
    f"made_flow_forward_backward(Tensor deps, Tensor dlog_det, Tensor z, {_FLOW}) -> Tensor[]",
    native.made_flow_forward_backward,
    _backward_fake,
)
register(
    f"made_flow_forward(Tensor z, {_FLOW}) -> (Tensor, Tensor)",
    native.made_flow_forward,
    _fake,
    _setup_context,
    _backward,
)
register(
    f"made_flow_inverse_backward(Tensor dz, Tensor z, {_FLOW}) -> Tensor[]",
    _implicit_gradients,
    _inverse_backward_fake,
    cuda=_implicit_gradients,
)
register(
    f"made_flow_inverse(Tensor eps, {_FLOW}) -> Tensor",
    native.made_flow_inverse,
    _inverse_fake,
    _setup_inverse_context,
    _inverse_backward,
)
