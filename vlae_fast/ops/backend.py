"""Which body runs, and the checks that every op makes first."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

__all__ = [
    "Arguments",
    "no_gradient",
    "reference_chosen",
    "register",
    "use_backend",
]

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
        if backend not in ("auto", "reference"):
            raise ValueError(f"backend: 'auto' or 'reference' wanted, got {backend!r}")
        self._backend = backend

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


# torch passes registered operators by in forward mode (their tangent would be 0, silently), and refuses them in all
# transforms of torch.func but vmap (with an error that helps nobody).


def _transforms_in_force() -> bool:
    if forward_ad._current_level >= 0:  # also within torch.func.jvp and jacfwd
        return True
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def _followed(value: Tensor) -> bool:
    """Is the tensor being differentiated by one of them?"""
    if not torch.compiler.is_compiling():  # it traces none of these questions
        while torch._C._functorch.is_batchedtensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        if torch._C._functorch.is_gradtrackingtensor(value):
            return True
    return forward_ad.unpack_dual(value).tangent is not None


_HALF = (torch.float16, torch.bfloat16)
_parsed: dict[str, list[tuple[str, int | None]]] = {}


def _letters(shape: str) -> list[tuple[str, int | None]]:
    """Letter (or number) of every axis, and its size where that is a number; parsed once."""
    if shape not in _parsed:
        _parsed[shape] = [(letter, int(letter) if letter.isdigit() else None) for letter in shape.split()]
    return _parsed[shape]


class Arguments:
    """Checks the tensors of one call: equal letters mean equal sizes, and all share one dtype and one device.

    `drawing`: the call draws, so what it takes counts as constant to every kind of differentiation.
    """

    def __init__(self, drawing: bool = False) -> None:
        self.sizes: dict[str, int] = {}
        self.reference = reference_chosen()
        self.drawing = drawing
        self.transformed = not self.reference and not drawing and _transforms_in_force()
        self.first: str | None = None
        self.dtype: torch.dtype
        self.device: torch.device

    def tensor(self, name: str, value: Tensor, shape: str, dtype: torch.dtype | None = None) -> Tensor:
        """`value`, contiguous, once it is known to have the `shape` (letters and numbers, separated by spaces).

        Under torch.autocast half-precision values are widened, as for torch's own ops that want float32.
        Raises TypeError (no tensor, wrong dtype), ValueError (wrong shape or device) or NotImplementedError (a tensor
        that a transform follows which compiled bodies know nothing of) that names the argument.
        """
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: a tensor wanted, got {type(value).__name__}")
        if self.drawing:
            value = value.detach()
        elif self.transformed and _followed(value):
            raise NotImplementedError(
                f"{name}: compiled bodies have gradients by autograd's backward alone; forward-mode differentiation "
                "and torch.func run under vlae_fast.use_backend('reference')"
            )
        if value.dtype in _HALF and dtype is None and torch.is_autocast_enabled(value.device.type):
            value = value.float()
        if self.first is None:
            self._set_first(name, value)
        if value.layout != torch.strided:
            raise TypeError(f"{name}: a dense tensor wanted, got layout {value.layout}")
        if value.device != self.device:
            raise ValueError(f"{name}: device {self.device} (that of {self.first}) wanted, got {value.device}")
        if value.dtype != (dtype or self.dtype):
            mend = "; float64 runs under use_backend('reference')" if value.dtype == torch.float64 else ""
            raise TypeError(f"{name}: {dtype or self.dtype} wanted, got {value.dtype}{mend}")
        letters, before = _letters(shape), len(self.sizes)
        fits = len(letters) == value.dim()
        for (letter, number), n in zip(letters, value.shape, strict=False):
            fits = fits and n == (self.sizes.setdefault(letter, n) if number is None else number)
        if not fits:
            known = list(self.sizes)[:before]
            wanted = ", ".join(f"{a}={self.sizes[a]}" if a in known else a for a, _ in letters)
            raise ValueError(f"{name}: shape [{wanted}] wanted, got {list(value.shape)}")
        return value.contiguous()

    def _set_first(self, name: str, value: Tensor) -> None:
        """The first tensor tells the device, and under the reference backend the dtype."""
        if not self.reference and value.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{name}: no compiled body for the device {value.device}; "
                "move the tensors to the CPU or a GPU, or use vlae_fast.use_backend('reference')"
            )
        floating = self.reference and value.dtype.is_floating_point
        self.first, self.device, self.dtype = name, value.device, value.dtype if floating else torch.float32


def register(
    schema: str,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> None:
    """Makes the operator `vlae_fast::<schema>` of a CPU body, a shape body and a gradient (a gradient's own: none).

    The CUDA body is the function of the same name in the package `gpu`.
    """
    op = schema[: schema.index("(")]
    name = f"vlae_fast::{op}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "cpu")(cpu)
    torch.library.impl(name, "cuda")(_cuda_body(op))
    torch.library.register_fake(name)(fake)
    if backward is None:
        backward = no_gradient(f"{name}: no second derivatives; use_backend('reference') has them")
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    torch.library.register_vmap(name, _one_by_one(op))


def _cuda_body(op: str) -> Callable[..., Any]:
    def body(*arguments: Any) -> Any:
        from vlae_fast import gpu  # when it is needed: Triton takes a while to import, and may be missing

        return getattr(gpu, op)(*arguments)

    return body


def _one_by_one(op: str) -> Callable[..., Any]:
    """What torch.func.vmap does with the operator: one call an element (torch's own way knows no lists of tensors)."""

    def element(value: Any, axis: Any, i: int) -> Any:
        if isinstance(value, list) and isinstance(axis, list):
            return [element(v, a, i) for v, a in zip(value, axis, strict=True)]
        return value if axis is None else value.select(axis, i)

    def rule(info: Any, axes: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        call = getattr(torch.ops.vlae_fast, op)
        results = [call(*element([*arguments], [*axes], i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return type(results[0])(stacked), type(results[0])([0] * len(stacked))

    return rule


def no_gradient(reason: str) -> Callable[..., Any]:
    """A backward formula that says that there is none, and why."""

    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(reason)

    return backward
