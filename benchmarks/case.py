"""A case: one call of ours at several sizes, others that do the same, and the least that any of them has to do."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Size = dict[str, int]
Call = Callable[[], Any]
Contender = Callable[[Any], Call]
"""Of the inputs; what it does before it returns the call is not on the clock."""
Way = Callable[[Any], tuple[Callable[..., Tensor], list[Tensor]]]
"""Inputs -> a function, and the tensors that it is called with and differentiated in."""
Check = Callable[[Any, Any], None]
"""Of the inputs and a contender's result: raises where it is wrong."""
OURS = "native"


def label(size: Size) -> str:
    """As in `N=16 image=28`."""
    return " ".join(f"{axis}={value}" for axis, value in size.items())


class Work(NamedTuple):
    """What a call cannot do without: live multiply-adds, and bytes that must be moved once.

    Taps and connections that a mask forbids do not count, neither do ELUs; weights, inputs and results move once.
    """

    multiply_adds: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes)

    def floor_seconds(self, probes: Mapping[str, Any]) -> float:
        """The least time on the machine of these probes (probes.c), be it for arithmetic or for memory."""
        fits = [level for level in probes["bandwidth"] if level["bytes"] >= self.bytes] or probes["bandwidth"][-1:]
        bandwidth = 1e9 * max(fits[0]["read_gbs"], fits[0]["copy_gbs"])
        return max(2 * self.multiply_adds / (1e9 * probes["gflops"]), self.bytes / bandwidth)

    def with_gradients(self) -> "Work":
        """Forward and backward: twice the multiply-adds more; every tensor has a gradient that moves too."""
        return Work(3 * self.multiply_adds, 2 * self.bytes)


class OnGpu(NamedTuple):
    """What the GPU report times of a case."""

    sizes: tuple[Size, ...]
    contenders: tuple[str, ...]
    """Beside ours."""
    ungraphed: tuple[str, ...] = ()
    """Which of all of them are not timed as replayed CUDA graphs too."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything about one call."""

    op: str
    draw: Callable[..., Any]
    """Random inputs of a size, on torch's default device."""
    contenders: Mapping[str, Contender]
    """OURS first."""
    work: Callable[..., Work]
    """Of a size."""
    check: Check
    base: Size
    axes: Mapping[str, tuple[int, ...]]
    """Every axis grows alone, the others stay as in `base`."""
    quick: Callable[[str, Size], bool]
    """Which contenders and sizes are part of `make bench`: to compile one takes torch about ten seconds."""
    runs: Callable[[str, Size], bool] = lambda contender, size: True
    """Which are part of `make bench-all`, and of the GPU report."""
    memory: bool = False
    """Whether the report tells what a call needs at its peak."""
    compared: tuple[Size, ...] = ()
    """Sizes of `make bench-compare`."""
    gpu: OnGpu = field(default_factory=lambda: OnGpu((), ()))

    def sizes(self) -> Iterable[Size]:
        """Each once."""
        every = (self.base | {axis: value} for axis, values in self.axes.items() for value in values)
        return {label(size): size for size in every}.values()

    def ours(self, **size: int) -> Call:
        return self.contenders[OURS](self.draw(**size))


# --- what the cases are made of -------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def forward(way: Way) -> Contender:
    def prepare(inputs: Any) -> Call:
        function, tensors = way(inputs)
        return torch.no_grad()(lambda: function(*tensors))

    return prepare


def gradients(way: Way) -> Contender:
    """Of the sum of what the function returns, in all tensors."""

    def prepare(inputs: Any) -> Call:
        function, tensors = way(inputs)
        leaves = [t.detach().requires_grad_() for t in tensors]
        upstream: list[Tensor] = []

        def call() -> tuple[Tensor, ...]:
            result = function(*leaves)
            if not upstream:  # laid out as the result is; not on the clock
                upstream.append(torch.ones_like(result))
            return torch.autograd.grad(result, leaves, upstream[0])

        return call

    return prepare


def agrees(contender: Contender, tolerance: float) -> Check:
    """With what this contender gives, in the norm."""

    def check(inputs: Any, result: Any) -> None:
        expected = contender(inputs)()
        pairs = [(result, expected)] if isinstance(expected, Tensor) else list(zip(result, expected, strict=True))
        for actual, wanted in pairs:
            error = ((actual - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()
            assert error <= tolerance, f"error {error:.3g} of the norm, {tolerance} allowed"

    return check
