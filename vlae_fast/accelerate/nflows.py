"""nflows: sampling goes through `inverse`. sbi's `maf` is made of these."""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vlae_fast.accelerate.net import Net, UnsupportedError
from vlae_fast.accelerate.spline_flows import Inverse, made_net

__all__ = ["autoregressive", "swap"]

_TRANSFORMS = "nflows.transforms.autoregressive"


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    return _TRANSFORMS in sys.modules and isinstance(part, sys.modules[_TRANSFORMS].AutoregressiveTransform)


def swap(part: Any) -> "NflowsInverse":
    """What stands in for the slow method. Raises UnsupportedError."""
    return NflowsInverse(part)


class NflowsInverse(Inverse):
    """MaskedAffineAutoregressiveTransform: scales softplus(s) + 1e-3."""

    def describe(self, with_context: bool) -> Net:
        """See `Swap`."""
        made = self.module.autoregressive_net
        if type(self.module) is not sys.modules[_TRANSFORMS].MaskedAffineAutoregressiveTransform:
            raise UnsupportedError(f"{type(self.module).__name__} is no affine transform of this library's own")
        if type(made) is not sys.modules["nflows.transforms.made"].MADE:
            raise UnsupportedError(f"a net of its own, {type(made).__name__}")

        def first(context: Tensor) -> Tensor:
            added: Tensor = made.activation(made.context_layer(context))
            return added

        def in_block(block: Any) -> Callable[[Tensor], Tensor] | None:
            return block.context_layer if with_context else None

        if with_context and not hasattr(made, "context_layer"):
            raise UnsupportedError("a context for a net without one")
        return made_net(
            made,
            first if with_context else None,
            in_block,
            lambda block: None,
            not made.use_residual_blocks,
            "softplus",
            (self.module._epsilon,),
        )
