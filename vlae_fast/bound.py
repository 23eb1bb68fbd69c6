"""What scoring an image gives."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import _register_namedtuple

__all__ = ["Bound", "folded_sum", "normal_log_prob"]


class Bound(NamedTuple):
    """The variational bound of each image, in nats (the paper's eq. 4)."""

    reconstruction: Tensor
    """log p(x|z), [N]."""
    kl: Tensor
    """log q(z|x) - log p(z), one sample, [N]."""
    kl_dimensions: Tensor
    """The same, split over the dimensions of z, [N, D] (a flow's log-determinant in equal shares)."""

    @property
    def elbo(self) -> Tensor:
        """Lower bound of log p(x), [N]."""
        return self.reconstruction - self.kl


_register_namedtuple(Bound, serialized_type_name="vlae_fast.Bound")  # for torch.export.save


def normal_log_prob(eps: Tensor) -> Tensor:
    """Of a standard normal, elementwise, nats."""
    return -0.5 * (eps * eps + math.log(2 * math.pi))


def folded_sum(t: Tensor) -> Tensor:
    """Over the last axis, by halves: torch's own sum takes an order that depends on the processor."""
    while t.shape[-1] > 1:
        half = (t.shape[-1] + 1) // 2
        rest = t.shape[-1] - half
        t = torch.cat([t[..., :rest] + t[..., half:], t[..., rest:half]], dim=-1)
    return t.sum(-1)
