"""nflows: sampling goes through `inverse`. sbi's `maf` is made of these."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vlae_fast.accelerate.net import Net, UnsupportedError
from vlae_fast.accelerate.spline_flows import Inverse, made_net
from vlae_fast.accelerate.swap import Chain, Swap, groups, recorded, undo_all

__all__ = ["autoregressive", "chain", "composite", "swap"]

_TRANSFORMS = "nflows.transforms.autoregressive"


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    return _TRANSFORMS in sys.modules and isinstance(part, sys.modules[_TRANSFORMS].AutoregressiveTransform)


def swap(part: Any) -> "NflowsInverse":
    """What stands in for the slow method. Raises UnsupportedError."""
    return NflowsInverse(part)


def composite(part: Any) -> bool:
    """Does it apply transforms one after the other?"""
    return _TRANSFORMS in sys.modules and type(part) is sys.modules["nflows.transforms.base"].CompositeTransform


def chain(part: Any) -> "NflowsChain":
    """What stands in for the method of a composite."""
    return NflowsChain(part)


class NflowsInverse(Inverse):
    """MaskedAffineAutoregressiveTransform: scales softplus(s) + 1e-3."""

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """See `Swap`. Where gradients are wanted, log_det is the library's own at x: both directions' cancel exactly.

        That is one pass of the D that were spared.
        """
        found = super().inverse(y, context)
        if found is None or not found[1].requires_grad:
            return found
        return found[0], -self.module.forward(found[0], context)[1]

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


class NflowsChain(Chain):
    """CompositeTransform."""

    method = "inverse"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._inverses: dict[Any, tuple[Tensor, int, Tensor]] = {}

    def __call__(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The library's `inverse`."""
        if recorded():
            result: tuple[Tensor, Tensor] = self.original()(inputs, context)
            return result
        outputs, total = inputs, inputs.new_zeros(inputs.shape[0])
        for group in groups((part, self._known(part)) for part in _backward(self.module)):
            known = [swap for _, swap in group if swap is not None]
            found = undo_all(known, outputs, context) if known and outputs.dim() == 2 else None
            if found is not None:
                outputs, total = found[0], total + found[1]
                continue
            for part, _ in group:
                outputs, log_det = part.inverse(outputs, context)
                total = total + log_det
        return outputs, total

    def _known(self, part: Any) -> Swap | Tensor | None:
        own = vars(part).get(self.method)
        if isinstance(own, NflowsInverse):
            return own
        permutations: Any = sys.modules["nflows.transforms.permutations"]
        kinds = permutations.Permutation, permutations.RandomPermutation, permutations.ReversePermutation
        return self._inverse(part) if own is None and type(part) in kinds and part._dim == 1 else None

    def _inverse(self, part: Any) -> Tensor:
        """Of a permutation, sorted anew only where it has changed."""
        permutation = part._buffers["_permutation"]
        version = -1 if permutation.is_inference() else permutation._version
        found = self._inverses.get(part)
        if found is None or found[0] is not permutation or found[1] != version or version < 0:
            found = self._inverses[part] = permutation, version, torch.argsort(permutation)
        return found[2]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_inverses": {}})


def _backward(composite: Any) -> Iterator[Any]:
    """The parts of a composite and of those in it, from the last to the first."""
    for part in reversed(composite._modules["_transforms"]):
        if type(part) is type(composite) and isinstance(vars(part).get("inverse"), NflowsChain):
            yield from _backward(part)
        else:
            yield part
