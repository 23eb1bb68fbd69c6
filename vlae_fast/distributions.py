"""What an autoregressive flow makes of a Gaussian, as a distribution of torch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vlae_fast.layers import MADEFlow

__all__ = ["FlowPosterior"]


class FlowPosterior(Distribution):
    """q(z|x) of an inverse autoregressive flow (Kingma et al. 2016): z = flow(z0), z0 from a diagonal Gaussian."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, base: Distribution, flow: MADEFlow, hidden_context: Tensor) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.base, self.flow, self.hidden_context = base, flow, hidden_context

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes [*sample_shape, N, D]."""
        z0 = self.base.rsample(torch.Size(sample_shape))
        return self.flow(z0.flatten(0, -2), self._context(z0))[0].view_as(z0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of codes [..., N, D] in nats, [..., N]; inverts the flow, so it is not differentiable."""
        z0 = self.flow.inverse(value.flatten(0, -2), self._context(value))
        _, log_det = self.flow(z0, self._context(value))
        return self.base.log_prob(z0.view_as(value)) - log_det.view(value.shape[:-1])

    def _context(self, z: Tensor) -> Tensor:
        context = self.hidden_context
        return context.expand(*z.shape[:-2], *context.shape).reshape(-1, *context.shape[1:])
