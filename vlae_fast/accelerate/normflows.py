"""normflows: these transforms run from z to x, so the density goes through `inverse`."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, UnsupportedError
from vlae_fast.accelerate.spline_flows import Inverse, made_net

__all__ = ["autoregressive", "swap"]

_TRANSFORMS = "normflows.flows.affine.autoregressive"


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    return _TRANSFORMS in sys.modules and isinstance(part, sys.modules[_TRANSFORMS].Autoregressive)


def swap(part: Any) -> "NormflowsInverse":
    """What stands in for the slow method. Raises UnsupportedError."""
    return NormflowsInverse(part)


class NormflowsInverse(Inverse):
    """MaskedAffineAutoregressive: scales sigmoid(s + 2) + 1e-3, contexts by gated linear units."""

    def describe(self, with_context: bool) -> Net:
        """See `Swap`."""
        made = self.module.autoregressive_net
        if type(self.module) is not sys.modules[_TRANSFORMS].MaskedAffineAutoregressive:
            raise UnsupportedError(f"{type(self.module).__name__} is no affine transform of this library's own")
        if type(made) is not sys.modules["normflows.nets.made"].MADE or type(made.preprocessing) is not nn.Identity:
            raise UnsupportedError(f"a net of its own, {type(made).__name__}")
        if not len(made.blocks):
            raise UnsupportedError("no blocks")
        if with_context and not (hasattr(made, "context_layer") and hasattr(made.blocks[0], "linear_layers")):
            raise UnsupportedError("a context for a net without one")

        def gate(block: Any) -> Callable[[Tensor], Tensor] | None:
            return (lambda context: torch.sigmoid(block.context_layer(context))) if with_context else None

        first = made.context_layer if with_context else None
        return made_net(made, first, lambda block: None, gate, False, "sigmoid", (2.0, 1e-3))
