"""The meaning of a MADE flow's ops, for any float dtype and device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks
from vlae_fast.ops.made.net import evaluate, layers_of, log_scale
from vlae_fast.ops.made.spec import MADESpec
from vlae_fast.ops.plain import Visit, unchanged
from vlae_fast.params import MADEFlowParams, MADEParams

__all__ = ["made_flow_forward", "made_flow_inverse", "made_forward", "made_inverse"]


def _connected(params: MADEFlowParams) -> MADEFlowParams:
    """The same flow with 0 in place of the weights of all connections that the degrees forbid."""
    weight1, weight2, weight3 = masks.made_weights(params)
    return params._replace(weight1=weight1, weight2=weight2, weight3=weight3)


def _made(
    y: Tensor, p: MADEFlowParams, t: int, hidden_context: Tensor | None, visit: Visit
) -> tuple[Tensor, Tensor | None]:
    """Mean and log scale (None if mean only) of step t of a flow of `_connected` weights for y [N, D]."""
    D = y.shape[1]
    h = visit("hidden1", t, F.linear(y, p.weight1[t])) + p.bias1[t]
    h = F.relu(h if hidden_context is None else h + hidden_context[:, t])
    h = F.relu(visit("hidden2", t, F.linear(h, p.weight2[t])) + p.bias2[t])
    out = visit("output", t, F.linear(h, p.weight3[t])) + p.bias3[t]
    return out[:, :D], out[:, D:] if out.shape[1] > D else None


def made_flow_forward(
    z: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None, visit: Visit = unchanged
) -> tuple[Tensor, Tensor]:
    """Density direction of T autoregressive steps (the paper's eq. 13; Kingma et al. 2016, arXiv:1606.04934).

    Each step is `y = y - mu(y)` or `y = (y - mu(y)) * exp(-s(y))`; the order of the D variables is reversed after
    every step, the last included. z [N, D], hidden_context [N, T, M] -> eps [N, D], log_det [N] = -sum of all s.
    `visit` is called for "hidden1", "hidden2" and "output" of every step.
    """
    p = _connected(params)
    y, log_det = z, z.new_zeros(len(z))
    for t in range(len(p.weight1)):
        mu, s = _made(y, p, t, hidden_context, visit)
        y = y - mu
        if s is not None:
            y, log_det = y * torch.exp(-s), log_det - s.sum(1)
        y = y.flip(1)
    return y, log_det


def made_flow_inverse(eps: Tensor, params: MADEFlowParams, hidden_context: Tensor | None = None) -> Tensor:
    """Sampling direction: the z [N, D] for which `made_flow_forward(z)` is eps [N, D]. D passes a step."""
    p = _connected(params)
    y = eps
    for t in reversed(range(len(p.weight1))):
        y = out = y.flip(1)  # what stands behind column j of y has no part in that column
        for j in range(eps.shape[1]):
            mu, s = _made(y, p, t, hidden_context, unchanged)
            drawn = (out[:, j] if s is None else out[:, j] * torch.exp(s[:, j])) + mu[:, j]
            y = torch.cat([y[:, :j], drawn[:, None], y[:, j + 1 :]], 1)
    return y


def made_forward(
    x: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None = None,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One masked autoregressive transform, `y = scale(x) * x + shift(x)` (Papamakarios et al. 2017, arXiv:1705.07057).

    x [N, D], hidden_context [N, C], gates [N, G] -> y [N, D], log_det [N] = the sum of all log scales. `spec` says what
    the net and the scales are.
    """
    values, _ = evaluate(x, layers_of(params, spec), spec, hidden_context, gates)
    shift, log = _transform(values[-1], x.shape[1], spec)
    return torch.exp(log) * x + shift, log.sum(1)


def made_inverse(
    y: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None = None,
    gates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The x [N, D] for which `made_forward(x)` is y [N, D], and its log_det [N]. D passes."""
    layers = layers_of(params, spec)
    x = log = 0.0 * y  # which a gradient can go through where D is 0
    for _ in range(y.shape[1]):
        values, _ = evaluate(x, layers, spec, hidden_context, gates)
        shift, log = _transform(values[-1], y.shape[1], spec)
        x = (y - shift) * torch.exp(-log)
    return x, -log.sum(1)


def _transform(out: Tensor, D: int, spec: MADESpec) -> tuple[Tensor, Tensor]:
    """Shift and log scale of outputs [N, D or 2D]."""
    shift, log = out[:, :D], log_scale(out[:, D:] if out.shape[1] > D else out, spec)
    return shift * -torch.expm1(log) if spec.scale == "gated" else shift, log
