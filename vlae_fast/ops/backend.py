"""Which body runs, and the checks that every op makes first."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Arguments", "not_differentiable", "reference_chosen", "register", "use_backend"]

T = TypeVar("T")


class _State(threading.local):
    backend = "auto"


_state = _State()


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
        if backend not in ("auto", "reference"):
            raise ValueError(f"backend: 'auto' or 'reference' wanted, got {backend!r}")
        self._backend = backend
        self._entered: list[tuple[str, TorchFunctionMode]] = []

    def __enter__(self) -> None:
        mode = _Reference() if self._backend == "reference" else _Auto()
        mode.__enter__()
        self._entered.append((_state.backend, mode))
        _state.backend = self._backend

    def __exit__(self, *exception: Any) -> None:
        _state.backend, mode = self._entered.pop()
        mode.__exit__(*exception)


def reference_chosen() -> bool:
    """Is `use_backend("reference")` in force in this thread?"""
    return _state.backend == "reference"


class Arguments:
    """Checks the tensors of one call: equal letters mean equal sizes, and all share one dtype and one device."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.first: tuple[str, Tensor] | None = None

    def tensor(self, name: str, value: Tensor, shape: str, dtype: torch.dtype | None = None) -> Tensor:
        """`value`, contiguous, once it is known to have the `shape` (letters and numbers, separated by spaces).

        Raises TypeError (no tensor, wrong dtype) or ValueError (wrong shape or device) that names the argument.
        """
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: a tensor wanted, got {type(value).__name__}")
        self._check_type(name, value, dtype)
        letters = shape.split()
        wanted = [int(letter) if letter.isdigit() else self.sizes.get(letter) for letter in letters]
        if len(wanted) != value.dim() or any(w not in (None, n) for w, n in zip(wanted, value.shape, strict=False)):
            known = (f"{a}={w}" if a.isalpha() and w is not None else a for a, w in zip(letters, wanted, strict=True))
            raise ValueError(f"{name}: shape [{', '.join(known)}] wanted, got {list(value.shape)}")
        self.sizes.update((letter, n) for letter, n in zip(letters, value.shape, strict=True) if letter.isalpha())
        return value.contiguous()

    def _check_type(self, name: str, value: Tensor, dtype: torch.dtype | None) -> None:
        if self.first is None:
            self.first = (name, value)
            if not reference_chosen() and value.device.type != "cpu":
                raise ValueError(
                    f"{name}: no compiled body for the device {value.device} in this version; "
                    "move the tensors to the CPU, or use vlae_fast.use_backend('reference')"
                )
        if value.layout != torch.strided:
            raise TypeError(f"{name}: a dense tensor wanted, got layout {value.layout}")
        first_name, first = self.first
        if value.device != first.device:
            raise ValueError(f"{name}: device {first.device} (that of {first_name}) wanted, got {value.device}")
        if dtype is not None:
            if value.dtype != dtype:
                raise TypeError(f"{name}: {dtype} wanted, got {value.dtype}")
        elif reference_chosen():
            if not value.dtype.is_floating_point or value.dtype != first.dtype:
                raise TypeError(
                    f"{name}: {first.dtype} (a float dtype, that of {first_name}) wanted, got {value.dtype}"
                )
        elif value.dtype != torch.float32:
            mend = "; float64 runs under use_backend('reference')" if value.dtype == torch.float64 else ""
            raise TypeError(f"{name}: torch.float32 wanted, got {value.dtype}{mend}")


def register(
    schema: str,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Makes the operator `vlae_fast::<schema>` of a CPU body, a shape body and a gradient."""
    name = f"vlae_fast::{schema[: schema.index('(')]}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "cpu")(cpu)
    torch.library.register_fake(name)(fake)
    if backward is not None:
        torch.library.register_autograd(name, backward, setup_context=setup_context)


def not_differentiable(op: str) -> Callable[..., Any]:
    """A backward formula that says that there is none."""

    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(f"{op} is not differentiable: it draws samples; score them with the forward op")

    return backward
