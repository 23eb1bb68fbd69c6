"""Which body runs."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from torch.overrides import TorchFunctionMode

from vlae_fast.checks import choice

__all__ = ["reference_chosen", "use_backend"]

T = TypeVar("T")


_state = threading.local()


class _Auto(TorchFunctionMode):
    """Does nothing, but torch.compile guards on the modes in force, so that it compiles anew for another backend."""

    def __torch_function__(
        self, func: Callable[..., T], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> T:
        return func(*args, **(kwargs or {}))


class _Reference(_Auto):
    pass


class use_backend:  # noqa: N801 - a context manager is used like a function
    """Context manager: which bodies the ops of this thread run on. Nestable.

    "auto": the compiled body of the tensors' device; "reference": plain torch, on any device and in any float dtype.
    A backward pass runs on the body that ran the forward pass. Raises ValueError for another name.
    """

    def __init__(self, backend: Literal["auto", "reference"]) -> None:
        self._backend = choice("backend", backend, ("auto", "reference"))

    def __enter__(self) -> None:
        mode = _Reference() if self._backend == "reference" else _Auto()
        mode.__enter__()
        # What to go back to is the thread's, not the object's: one object may be entered again, and in many threads.
        _state.entered = (*_entered(), (self._backend, mode))

    def __exit__(self, *exception: Any) -> None:
        *outer, (_, mode) = _entered()
        _state.entered = tuple(outer)
        mode.__exit__(*exception)


def _entered() -> tuple[tuple[str, TorchFunctionMode], ...]:
    # A default by getattr: torch.compile of torch 2.9 does not see the attributes of a subclass of threading.local.
    return getattr(_state, "entered", ())


def reference_chosen() -> bool:
    """Is `use_backend("reference")` in force in this thread?"""
    entered = _entered()
    return len(entered) > 0 and entered[-1][0] == "reference"  # bool(tuple) is no graph in torch 2.9
