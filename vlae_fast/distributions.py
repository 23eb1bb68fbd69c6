"""What an autoregressive flow makes of a Gaussian, as distributions of torch: the posterior q(z|x), the prior p(z).

What has no closed form, as mean, entropy and KL, raises NotImplementedError, as torch's distributions do.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from vlae_fast.layers import MADEFlow

__all__ = ["FlowPosterior", "FlowPrior"]


def _no_closed_form(name: str) -> NotImplementedError:
    return NotImplementedError(f"{name}: not available after an autoregressive flow; sample and log_prob estimate it")


class _FlowDistribution(Distribution):
    """Over vectors of D numbers; `base` is a Gaussian of the same shape."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        base: Distribution,
        flow: MADEFlow,
        hidden_context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)
        self.base, self.flow, self.hidden_context = base, flow, hidden_context

    @property
    def mean(self) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("mean")

    @property
    def mode(self) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("mode")

    @property
    def variance(self) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("variance")

    def entropy(self) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("entropy")

    def cdf(self, value: Tensor) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """Raises NotImplementedError."""
        raise _no_closed_form("icdf")

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_FlowDistribution":
        """The same for a larger batch."""
        base = self.base.expand(torch.Size(batch_shape))
        return type(self)(base, self.flow, self.hidden_context, self._validate_args)

    def _rows(self, value: Tensor) -> tuple[torch.Size, Tensor, Tensor | None]:
        """Shape [..., D] of the value broadcast to the batch, the value as rows [R, D], their contexts [R, T, M]."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        context = self.hidden_context
        if context is not None:
            context = context.expand(*shape[:-1], *context.shape[-2:]).reshape(-1, *context.shape[-2:])
        return shape, value.expand(shape).reshape(-1, shape[-1]), context

    def _density(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The flow's density direction: [..., D] -> [..., D] and the log-determinant [...]."""
        shape, rows, context = self._rows(value)
        out, log_det = self.flow(rows, context)
        return out.view(shape), log_det.view(shape[:-1])

    def _sampling(self, value: Tensor) -> Tensor:
        """The flow's sampling direction: [..., D] -> [..., D]."""
        shape, rows, context = self._rows(value)
        return self.flow.inverse(rows, context).view(shape)


class FlowPosterior(_FlowDistribution):
    """q(z|x) of an inverse autoregressive flow (Kingma et al. 2016): z = flow(z0), z0 from a diagonal Gaussian."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes [*sample_shape, N, D]."""
        return self._density(self.base.rsample(torch.Size(sample_shape)))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of codes [..., N, D] in nats, [..., N]; inverts the flow."""
        if self._validate_args:
            self._validate_sample(value)
        z0 = self._sampling(value)
        return self.base.log_prob(z0) - self._density(z0)[1]


class FlowPrior(_FlowDistribution):
    """p(z) of an autoregressive flow (the paper's eq. 13): flow(z) is Gaussian."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Codes [*sample_shape, D]; inverts the flow."""
        return self._sampling(self.base.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of codes [..., D] in nats, [...]."""
        if self._validate_args:
            self._validate_sample(value)
        eps, log_det = self._density(value)
        return self.base.log_prob(eps) + log_det
