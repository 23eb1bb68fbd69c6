"""The gradient of a MADE flow's inverse by the implicit function theorem, in plain torch for every device.

As forward(z, params) = eps, J dz + (d forward / d params) dparams = deps with J the Jacobian in z. So a gradient of z
times the inverse of J is that of eps, and minus that, taken back through forward, is that of params.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast import masks

__all__ = ["MOST_FLOATS", "deps"]

MOST_FLOATS = 1 << 24
"""What is built of Jacobians at once (64 MiB), where one sample does not need more."""


def deps(dz: Tensor, z: Tensor, params: Sequence[Tensor], hidden_context: Tensor | None) -> Tensor:
    """The gradient of eps [N, D], given that of z [N, D]; params are the fields of MADEFlowParams, in order."""
    weights = masks.made_weights(params)
    count = max(1, MOST_FLOATS // max(1, params[4][:1].numel()))  # samples
    contexts = itertools.repeat(None) if hidden_context is None else hidden_context.split(count)
    with torch.autocast(z.device.type, enabled=False):
        return torch.cat(
            [_solve(*part, weights, params) for part in zip(dz.split(count), z.split(count), contexts)]  # noqa: B905
        )


def _solve(
    dz: Tensor, z: Tensor, hidden_context: Tensor | None, weights: tuple[Tensor, ...], params: Sequence[Tensor]
) -> Tensor:
    """J^T deps = dz, step by step: before its reversal a step's Jacobian is lower triangular."""
    D, y, gradient = z.shape[1], z, dz
    for t, (weight1, weight2, weight3) in enumerate(zip(*weights, strict=True)):
        h1 = F.linear(y, weight1) + params[1][t]
        if hidden_context is not None:
            h1 = h1 + hidden_context[:, t]
        h2 = F.linear(h1.relu(), weight2) + params[3][t]
        out = F.linear(h2.relu(), weight3) + params[5][t]
        slopes = weight3 * (h2 > 0)[:, None] @ weight2 * (h1 > 0)[:, None] @ weight1
        jacobian, y = torch.eye(D, device=y.device) - slopes[:, :D], y - out[:, :D]
        if out.shape[1] > D:
            shrink = torch.exp(-out[:, D:])
            y = y * shrink
            jacobian = shrink[..., None] * jacobian - y[..., None] * slopes[:, D:]
        gradient = torch.linalg.solve_triangular(jacobian.mT, gradient[..., None], upper=True)[..., 0].flip(1)
        y = y.flip(1)
    return gradient
