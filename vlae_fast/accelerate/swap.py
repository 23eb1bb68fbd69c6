"""What stands in for a slow method of a transform, on the object itself: a copy or a pickle of it keeps that."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, UnsupportedError
from vlae_fast.accelerate.run import Step, undo
from vlae_fast.checks import NonFiniteError

__all__ = ["Chain", "Replacement", "Swap", "groups", "recorded", "undo_all"]

FEWEST = 4
"""Variables from which on a gradient through our inverse costs less than one through the library's D passes."""


class Replacement:
    """Called in place of `module.<method>`. Subclasses say which."""

    method: str

    def __init__(self, module: Any) -> None:
        self.module = module

    def original(self) -> Any:
        """The library's own method."""
        return getattr(type(self.module), self.method).__get__(self.module)

    def install(self) -> None:
        """Takes the method's place."""
        self.module.__dict__[self.method] = self

    def remove(self) -> None:
        """Gives it back."""
        del self.module.__dict__[self.method]

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Swap(Replacement):
    """Of an autoregressive transform. Subclasses say what its net is and what is returned."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._look: _Look | None = None
        self._seen().nets[False] = self.describe(False)  # an UnsupportedError shows now

    def describe(self, with_context: bool) -> Net:
        """The net. Raises UnsupportedError where it is of another kind."""
        raise NotImplementedError

    def net(self, with_context: bool) -> Net:
        """The net, read once. Raises UnsupportedError where it is of another kind or cannot be fast now.

        Of dtypes and devices it knows nothing.
        """
        seen = self._seen()
        if reason := seen.mood():
            raise UnsupportedError(reason)
        if with_context not in seen.nets:
            seen.nets[with_context] = self.describe(with_context)
        return seen.nets[with_context]

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """x and log_det of rows y [N, D] and context [N or 1, .]; None where the library has to do it itself."""
        if recorded():
            return None
        found = undo_all([self], y, context)
        if found is not None:
            return found
        try:
            net = self.net(context is not None)
            return None if net.D < FEWEST else net.inverse(y, context)
        except (UnsupportedError, NonFiniteError, NotImplementedError):
            return None

    def obstacle(self) -> str:
        """Why the library would do it itself now, whatever it is called with; empty where it would not."""
        for part in self._seen().modules:
            if isinstance(part, nn.Linear):
                if part.weight.dtype != torch.float32:
                    return f"weights of {part.weight.dtype}"
                if part.weight.device.type != "cpu":
                    return f"weights on {part.weight.device}"
        return self._seen().mood()

    def parts(self) -> nn.Module:
        """The module of the net."""
        module: nn.Module = self.module
        return module

    def _seen(self) -> "_Look":
        """The net's modules; where one has taken another's place, the net is read anew."""
        root = self.parts()
        if self._look is None or not self._look.holds(root):
            self._look = _Look(root)
        return self._look

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_look": None})


class _Look:
    """The modules of a net, and lists by which a look at them is quick."""

    def __init__(self, root: nn.Module) -> None:
        self.modules = [*root.modules()]
        self.nets: dict[bool, Net] = {}
        """By whether there is a context."""
        self._parents = [part._modules for part in self.modules if part._modules]
        self._children = [[*children.values()] for children in self._parents]
        self._hooks = [hooks for part in self.modules for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self._own = [vars(part) for part in self.modules]
        kinds = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm
        self._two_moods: list[Any] = [part for part in self.modules if isinstance(part, kinds)]

    def holds(self, root: nn.Module) -> bool:
        return root is self.modules[0] and [[*children.values()] for children in self._parents] == self._children

    def mood(self) -> str:
        if any(self._hooks) or any("forward" in own for own in self._own):
            return "hooks or methods of their own in its net"
        for part in self._two_moods:
            if part.training and isinstance(part, nn.modules.batchnorm._BatchNorm):
                return "batch norm in training mode"
            if part.training and part.p > 0:
                return "dropout in training mode"
        return ""


class Chain(Replacement):
    """Of what applies transforms one after the other: runs of steps are undone in one call."""


def recorded() -> bool:
    """Does torch write down what is computed (torch.export, torch.jit.trace), to run it elsewhere?"""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def undo_all(parts: Sequence[Swap | Tensor], y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """`undo` of steps in the order of the call; tensors are permutations: variable i of what follows is variable p[i].

    None too where one of the steps cannot be fast now, or there is none.
    """
    if recorded():
        return None
    steps: list[Step] = []
    order: Tensor | None = None
    try:
        for part in parts:
            if isinstance(part, Tensor):
                order = part if order is None else order[part]
            else:
                steps.append((part.net(context is not None), order))
                order = None
        return undo(steps, order, y, context) if steps else None
    except (UnsupportedError, NonFiniteError):
        return None


K = TypeVar("K")


def groups(parts: Iterable[tuple[Any, K]]) -> Iterator[list[tuple[Any, K]]]:
    """Parts of a flow, each with what is known of it: runs of those that are a step or a permutation, others alone.

    Of the others nothing is known: None.
    """
    run: list[tuple[Any, K]] = []
    for part in parts:
        if part[1] is not None:
            run.append(part)
            continue
        if run:
            yield run
        yield [part]
        run = []
    if run:
        yield run
