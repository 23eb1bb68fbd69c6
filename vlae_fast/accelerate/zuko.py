"""zuko: `flow(c).sample()` goes through the inverse of the transform that MaskedAutoregressiveTransform makes."""

import math
import sys
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, Stage, UnsupportedError, activation_name
from vlae_fast.accelerate.swap import Swap

__all__ = ["autoregressive", "swap"]

_FLOWS = "zuko.flows.autoregressive"


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    return _FLOWS in sys.modules and isinstance(part, sys.modules[_FLOWS].MaskedAutoregressiveTransform)


def swap(part: Any) -> "ZukoForward":
    """What stands in for the method that makes the transform. Raises UnsupportedError."""
    return ZukoForward(part)


class ZukoForward(Swap):
    """MaskedAutoregressiveTransform with affine univariate transforms: soft-clipped log scales behind the shifts."""

    method = "forward"

    def parts(self) -> nn.Module:
        """See `Swap`."""
        net: nn.Module = self.module.hyper
        return net

    def __call__(self, c: Tensor | None = None) -> Any:
        """See `Swap`."""
        transform = self.original()(c)
        slow = transform._inverse

        def inverse(y: Tensor) -> Tensor:
            rows, context = y, c
            if c is not None:
                shape = torch.broadcast_shapes(y.shape[:-1], c.shape[:-1])
                rows, context = y.expand(*shape, -1), c.expand(*shape, -1).flatten(0, -2) if shape else c[None]
            found = self.inverse(rows.reshape(-1, rows.shape[-1]), context)
            x: Tensor = slow(y) if found is None else found[0].view(rows.shape)
            return x

        transform._inverse = inverse
        return transform

    def describe(self, with_context: bool) -> Net:
        """See `Swap`."""
        module = self.module
        if type(module) is not sys.modules[_FLOWS].MaskedAutoregressiveTransform:
            raise UnsupportedError(f"{type(module).__name__} is no transform of this library's own")
        slope = _slope(module.univariate)
        if module.total != 2 or any(math.prod(shape) != 1 for shape in module.shapes):
            raise UnsupportedError("univariate transforms of other parameters")
        D = module.hyper[-1].out_features // 2
        stages, activation = _stages(module.hyper, D, with_context)
        return Net(D, stages, activation, slice(0, None, 2), slice(1, None, 2), "soft_clip", (-math.log(slope),))


def _slope(univariate: Any) -> float:
    """The least slope of the affine transform that a univariate makes."""
    affine: Any = sys.modules["zuko.transforms"].MonotonicAffineTransform
    if univariate is affine:
        return 1e-3
    if isinstance(univariate, partial) and univariate.func is affine and set(univariate.keywords) <= {"slope"}:
        slope: float = univariate.keywords.get("slope", 1e-3)
        if not univariate.args and 0 < slope < 1:
            return slope
    raise UnsupportedError(f"univariate {getattr(univariate, '__name__', univariate)} is not affine")


def _stages(hyper: Any, D: int, with_context: bool) -> tuple[list[Stage], str]:
    """A MaskedMLP's stages and activation."""
    stages: list[Stage] = []
    activations = {part for part in hyper.modules() if not isinstance(part, (nn.Sequential, nn.Linear))}
    names = {activation_name(part) for part in activations} or {"identity"}
    if len(names) > 1:
        raise UnsupportedError("more than one activation")
    linears, activated, stream = 0, False, -1
    for part in hyper:
        if isinstance(part, nn.Linear):
            context = None if linears else _first_context(part, D, with_context)
            stages.append(Stage(part, stream, activated, context=context, columns=slice(None) if linears else slice(D)))
            linears, activated, stream = linears + 1, False, len(stages) - 1
        elif isinstance(part, nn.Sequential):  # a residual block: masked, activation, masked
            first, _, second = part
            if activated:
                raise UnsupportedError("a residual block of activations")
            stages += [Stage(first, stream), Stage(second, len(stages), True, stream)]
            stream = len(stages) - 1
        else:
            activated = True
    return stages, names.pop()


def _first_context(linear: Any, D: int, with_context: bool) -> Any:
    """What the first layer makes of the context's columns, which stand behind the variables."""
    if with_context != (linear.in_features > D):
        if with_context:
            raise UnsupportedError("a context for a net without one")
        return None  # only asked for its masks
    return (lambda c: F.linear(c, (linear.mask * linear.weight)[:, D:])) if with_context else None
