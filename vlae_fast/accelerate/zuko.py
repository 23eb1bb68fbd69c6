"""zuko: `flow(c).sample()` goes through the inverse of the transform that MaskedAutoregressiveTransform makes."""

import math
import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, Stage, UnsupportedError, activation_name
from vlae_fast.accelerate.swap import Chain, Swap, groups, undo_all

__all__ = ["autoregressive", "chain", "composite", "swap"]

_FLOWS = "zuko.flows.autoregressive"


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    return _FLOWS in sys.modules and isinstance(part, sys.modules[_FLOWS].MaskedAutoregressiveTransform)


def swap(part: Any) -> "ZukoForward":
    """What stands in for the method that makes the transform. Raises UnsupportedError."""
    return ZukoForward(part)


def composite(part: Any) -> bool:
    """Does it apply transforms one after the other?"""
    return _FLOWS in sys.modules and type(part) is sys.modules["zuko.lazy"].LazyComposedTransform


def chain(part: Any) -> "ZukoChain":
    """What stands in for the method of a composite."""
    return ZukoChain(part)


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
        first = next(part for part in self.module.hyper.modules() if isinstance(part, nn.Linear))
        conditional = first.in_features > self.module.hyper[-1].out_features // 2
        if conditional == (c is not None):  # else the library says what is wrong
            transform._inverse = _Undo(self, transform, c)
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


@dataclass(frozen=True)
class _Undo:
    """`transform._inverse`."""

    swap: ZukoForward
    transform: Any
    context: Tensor | None

    def __call__(self, y: Tensor) -> Tensor:
        rows, context, shape = _rows(y, self.context)
        found = self.swap.inverse(rows, context)
        x: Tensor = type(self.transform)._inverse(self.transform, y) if found is None else found[0].view(shape)
        return x


def _rows(y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None, torch.Size]:
    """y and context as rows, and the shape of what becomes of y."""
    shape = y.shape
    if context is None and y.dim() == 2:
        return y, None, shape
    if context is not None:
        batch = torch.broadcast_shapes(y.shape[:-1], context.shape[:-1])
        shape = torch.Size((*batch, y.shape[-1]))
        context = context.expand(*batch, -1).flatten(0, -2) if batch else context[None]
    return y.expand(shape).reshape(-1, y.shape[-1]), context, shape


class ZukoChain(Chain):
    """LazyComposedTransform: what it makes undoes runs of transforms in one call."""

    method = "forward"

    def __call__(self, c: Tensor | None = None) -> Any:
        """See `Replacement`."""
        transform = self.original()(c)
        transform.__class__ = _composed()
        return transform


@cache
def _composed() -> type:
    """The library's class, with another way back."""
    library: Any = sys.modules["zuko.transforms"].ComposedTransform

    class ComposedTransform(library):  # type: ignore[misc]
        def _inverse(self, y: Tensor) -> Tensor:
            for group in groups((part, _known(part)) for part in reversed(self.transforms)):
                x = _undone([known for _, known in group if known is not None], y)
                if x is None:
                    x = y
                    for part, _ in group:
                        x = part.inv(x)
                y = x
            return y

        @property
        def inv(self) -> Any:
            inverse = library.inv.fget(self)
            inverse._call = self._inverse
            return inverse

        def __reduce__(self) -> Any:
            return _new_composed, (), self.__getstate__()

    return ComposedTransform


def _new_composed() -> Any:
    """What a pickle is read into."""
    return object.__new__(_composed())


def _known(transform: Any) -> _Undo | Tensor | None:
    own = vars(transform).get("_inverse")
    if own is None and type(transform) is sys.modules["zuko.transforms"].PermutationTransform:
        return torch.argsort(transform.order)
    return own if isinstance(own, _Undo) else None


def _undone(run: list[_Undo | Tensor], y: Tensor) -> Tensor | None:
    steps = [part for part in run if isinstance(part, _Undo)]
    if not steps or y.dim() == 0:
        return None
    rows, context, shape = _rows(y, steps[0].context)
    found = undo_all([part.swap if isinstance(part, _Undo) else part for part in run], rows, context)
    return None if found is None else found[0].view(shape)


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
