"""Gradients of `made_forward`, and of `made_inverse` in its params, in plain torch.

The inverse's by the implicit function theorem: as forward(x, params) = y, a gradient of x times the inverse of the
Jacobian is that of y, and minus that, taken back through forward, that of params.
"""

import torch
from torch import Tensor

from vlae_fast.ops.made.net import NetGradients, backward, evaluate, layers_of, log_scale, log_scale_slope
from vlae_fast.ops.made.spec import MADESpec
from vlae_fast.params import MADEParams

__all__ = ["forward_gradients", "inverse_gradients"]


class _Point:
    """The transform at one x."""

    def __init__(
        self, x: Tensor, params: MADEParams, spec: MADESpec, hidden_context: Tensor | None, gates: Tensor | None
    ) -> None:
        self.x, self.spec = x, spec
        layers = layers_of(params, spec)
        passed = evaluate(x, layers, spec, hidden_context, gates)
        self.rest = layers, spec, hidden_context, gates, passed
        D = x.shape[1]
        self.shift, self.raw = passed[0][-1][:, :D], passed[0][-1][:, D:]
        self.with_scale = self.raw.shape[1] == D and spec.scale != "none"
        self.log = log_scale(self.raw, spec) if self.with_scale else torch.zeros_like(x)
        self.slope = log_scale_slope(self.raw, spec) if self.with_scale else torch.zeros_like(x)
        self.scale = torch.exp(self.log)

    def net(self, dy: Tensor, dlog_det: Tensor) -> NetGradients:
        """Of `sum(dy * y) + sum(dlog_det * log_det)` with the net's own x alone: not the x that is scaled."""
        if not self.with_scale:
            return backward(dy, self.x, *self.rest)
        dscale, dshift = dy * self.x, dy
        if self.spec.scale == "gated":
            dscale, dshift = dscale - dy * self.shift, dy * -torch.expm1(self.log)
        draw = (dscale * self.scale + dlog_det[:, None]) * self.slope
        return backward(torch.cat([dshift, draw], 1), self.x, *self.rest)


def _flat(dx: Tensor, net: NetGradients) -> list[Tensor]:
    """[dx, dweight, dbias, dhidden_context, dgates]; the last two may be empty."""
    optional = (dx.new_zeros(0) if t is None else t for t in (net.dhidden_context, net.dgates))
    return [dx, net.dweight, net.dbias, *optional]


def forward_gradients(
    dy: Tensor,
    dlog_det: Tensor,
    x: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None,
    gates: Tensor | None,
) -> list[Tensor]:
    """Gradients [dx, dweight, dbias, dhidden_context, dgates] of `made_forward` at x; the last two may be empty."""
    point = _Point(x, params, spec, hidden_context, gates)
    net = point.net(dy, dlog_det)
    return _flat(dy * point.scale + net.dx, net)


def inverse_gradients(
    dy: Tensor,
    dlog_det: Tensor,
    x: Tensor,
    params: MADEParams,
    spec: MADESpec,
    hidden_context: Tensor | None,
    gates: Tensor | None,
) -> list[Tensor]:
    """The same of `made_inverse`, whose result is x, where dy, the gradient of what it was given, is known."""
    return _flat(dy, _Point(x, params, spec, hidden_context, gates).net(-dy, -dlog_det))
