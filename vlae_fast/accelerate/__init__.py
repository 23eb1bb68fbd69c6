"""Other libraries' autoregressive flows with our incremental inverse: `vlae_fast.accelerate(flow)`.

The slow side of a masked autoregressive transform, D passes of its net, becomes one call of `ops.made_inverse`, the
work of a single pass. Knows nflows, zuko, sbi, normflows and pyro, and needs none of them.
"""

import sys
from collections.abc import Iterator
from inspect import isfunction
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from torch import nn

from vlae_fast.accelerate import nflows, normflows, pyro, zuko
from vlae_fast.accelerate.net import UnsupportedError
from vlae_fast.accelerate.swap import Replacement, Swap
from vlae_fast.checks import shown

__all__ = ["Entry", "accelerate", "report", "restore"]

T = TypeVar("T")
_LIBRARIES = (nflows, normflows, zuko, pyro)
_WITH_CHAINS = (nflows, zuko)
_WALKED = ("nflows", "normflows", "zuko", "pyro", "sbi", "torch")
"""Libraries whose objects are looked into."""


class Entry(NamedTuple):
    """A transform with a slow side."""

    name: str
    """Where it stands in the flow."""
    kind: str
    """Its class."""
    fast: bool
    """Whether `accelerate` has taken its slow side over, and nothing keeps it from being fast now."""
    reason: str
    """Why not; empty where it is fast."""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}): {'fast' if self.fast else self.reason}"


def accelerate(flow: T) -> T:
    """Speeds up the slow side of every autoregressive transform in a flow, in place, and returns the flow.

    `flow` is an object of nflows, zuko, sbi (a posterior or its density estimator), normflows or pyro, or a list of
    such; transforms are found however deep they lie. Weights are read at each call, so that training may go on, and
    gradients go through. What is no affine transform (splines), tensors that are not float32 on the CPU, dropout and
    batch norm in training mode are left to the library itself, and so is a transform that has got a method of its own
    (`transform.inverse = f`): `report` tells, with an empty list where nothing was found. Samples agree with those of
    the library under the same seed, up to rounding. Copies and pickles of the flow are fast too.

    Raises TypeError for what is no such object, no module and no list, tuple or dict.
    """
    for _, part in _walk(flow):
        if _replacement(part) is None:
            try:
                _made(part).install()
            except UnsupportedError:
                continue
    return flow


def restore(flow: T) -> T:
    """Undoes `accelerate`, and returns the flow. Methods that somebody else has set on a transform stay.

    Raises TypeError as `accelerate`.
    """
    for _, part in _walk(flow):
        if (replacement := _replacement(part)) is not None:
            replacement.remove()
    return flow


def report(flow: Any) -> list[Entry]:
    """Which transforms of a flow are sped up, and why the others are not. Raises TypeError as `accelerate`."""
    return [_entry(name, part) for name, part in _walk(flow) if _library_of(part) is not None]


def _entry(name: str, part: Any) -> Entry:
    kind = type(part).__name__
    swap = _replacement(part)
    if isinstance(swap, Swap):
        reason = swap.obstacle()
        return Entry(name, kind, not reason, reason)
    try:
        reason = _made(part).obstacle() or "not accelerated"
    except UnsupportedError as obstacle:
        reason = str(obstacle)
    return Entry(name, kind, False, reason)


def _replacement(part: Any) -> Replacement | None:
    found = [value for name, value in vars(part).items() if isinstance(value, Replacement) and value.method == name]
    return found[0] if found else None


def _made(part: Any) -> Any:
    """What stands in for a method of a part. Raises UnsupportedError."""
    if own := [name for name, value in vars(part).items() if _hides_a_method(part, name, value)]:
        raise UnsupportedError(f"{' and '.join(own)} set on the object itself")
    library = _library_of(part)
    return library.swap(part) if library is not None else _chains_of(part).chain(part)


def _hides_a_method(part: Any, name: str, value: Any) -> bool:
    """Has this attribute taken a method's place, and is no other method of the class (as pyro does it)?"""
    other = getattr(type(part), getattr(value, "__name__", ""), None)
    return isfunction(getattr(type(part), name, None)) and getattr(value, "__func__", value) is not other


def _library_of(part: Any) -> Any:
    """Whose autoregressive transform it is."""
    return next((library for library in _LIBRARIES if library.autoregressive(part)), None)


def _chains_of(part: Any) -> Any:
    """Whose composite it is."""
    return next((library for library in _WITH_CHAINS if library.composite(part)), None)


def _walk(flow: Any) -> Iterator[tuple[str, Any]]:
    """Every autoregressive transform and every composite in an object, once, with its name there."""
    if not _is_looked_into(flow):
        wanted = f"an object of {', '.join(_WALKED)}, or a list, tuple or dict of such"
        raise TypeError(f"flow: {wanted} wanted, got {shown(flow)}")
    seen: set[int] = set()
    waiting = [("", flow)]
    while waiting:
        name, part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if _library_of(part) is not None or _chains_of(part) is not None:
            yield name or "flow", part
        inside = list(_inside(part))
        waiting += [(f"{name}.{key}".lstrip("."), value) for key, value in reversed(inside)]


def _is_looked_into(part: Any) -> bool:
    if isinstance(part, (list, tuple, dict, nn.Module)):
        return True
    known = any(base.__module__.split(".")[0] in _WALKED for base in type(part).__mro__)
    return known and hasattr(part, "__dict__") and not isinstance(part, type)


def _inside(part: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, if it is one to look into."""
    if isinstance(part, (list, tuple)):
        yield from ((str(i), value) for i, value in enumerate(part))
    elif isinstance(part, dict):
        yield from ((str(key), value) for key, value in part.items())
    elif isinstance(part, nn.Module):
        yield from part.named_children()
        yield from ((key, value) for key, value in vars(part).items() if not key.startswith(("_", "training")))
    elif _is_looked_into(part):
        yield from vars(part).items()


class _Callable(ModuleType):
    """A module to be called: `vlae_fast.accelerate(flow)`."""

    __call__ = staticmethod(accelerate)


sys.modules[__name__].__class__ = _Callable
