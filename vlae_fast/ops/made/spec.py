"""What an autoregressive net of any wiring is made of: `MADESpec`, and the checks of what goes with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlae_fast.checks import choice, flag, instance, real, shown, whole

__all__ = ["ACTIVATIONS", "NUMBERS", "SCALES", "MADELayer", "MADESpec", "Wiring", "spec_of", "wiring_of"]

Wiring = tuple[list[int], int, int, float, float]
"""A spec as operators take it: six numbers a layer, activation, scale, numbers."""


class MADELayer(NamedTuple):
    """`gate * (W source + b + context) + added`: a row of a `MADESpec`."""

    rows: int
    """Units; of the last layer outputs: D shifts, then D numbers that become scales unless the scale is "none"."""
    source: int = -1
    """The earlier layer that it reads; -1: the variables."""
    activated: bool = False
    """Read that layer's activations, not its values."""
    adds: int = -1
    """An earlier layer of as many rows whose values are added, or -1. A unit adds none of a higher degree."""
    context: bool = False
    """Add the next `rows` columns of the context."""
    gated: bool = False
    """Multiply with the next `rows` columns of the gates, before anything is added."""


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda v: v, torch.ones_like),
    "relu": (F.relu, lambda v: (v > 0).to(v.dtype)),
    "tanh": (torch.tanh, lambda v: 1 - torch.tanh(v).square()),
    "elu": (F.elu, lambda v: torch.exp(v.clamp(max=0))),
    "sigmoid": (torch.sigmoid, lambda v: torch.sigmoid(v) * torch.sigmoid(-v)),
    "silu": (F.silu, lambda v: torch.sigmoid(v) * (1 + v * torch.sigmoid(-v))),
    "leaky_relu": (F.leaky_relu, lambda v: torch.where(v > 0, 1.0, 0.01)),
}
"""Name -> function and derivative. Their order is known to csrc/made/maps.h."""


def _softplus(s: Tensor, floor: float, _: float) -> Tensor:
    return torch.log(F.softplus(s) + floor)


def _clamped(s: Tensor, low: float, high: float) -> Tensor:
    return s + (s.clamp(low, high) - s).detach()


Map = Callable[[Tensor, float, float], Tensor]
SCALES: dict[str, tuple[Map, Map]] = {
    "none": (lambda s, *_: torch.zeros_like(s), lambda s, *_: torch.zeros_like(s)),
    "exp": (lambda s, *_: s, lambda s, *_: torch.ones_like(s)),
    "softplus": (_softplus, lambda s, floor, _: torch.sigmoid(s) / (F.softplus(s) + floor)),
    "sigmoid": (
        lambda s, offset, floor: torch.log(torch.sigmoid(s + offset) + floor),
        lambda s, offset, floor: (
            torch.sigmoid(s + offset) * torch.sigmoid(-s - offset) / (torch.sigmoid(s + offset) + floor)
        ),
    ),
    "soft_clip": (
        lambda s, bound, _: s / (1 + s.abs() / bound),
        lambda s, bound, _: (1 + s.abs() / bound).square().reciprocal(),
    ),
    "clamped": (_clamped, lambda s, *_: torch.ones_like(s)),
    "gated": (lambda s, offset, _: F.logsigmoid(s + offset), lambda s, offset, _: torch.sigmoid(-s - offset)),
}
"""Name -> log scale of an output s and its derivative, given two numbers. Their order is known to csrc/made/maps.h."""
NUMBERS = {"softplus": 1, "sigmoid": 2, "soft_clip": 1, "clamped": 2, "gated": 1}
"""How many of the numbers count."""


@dataclass(frozen=True)
class MADESpec:
    """The wiring of a MADE and the form of its transform, `y = scale(x) * x + shift(x)`.

    Scales, of an output s and `numbers` a, b: "none" (1), "exp" (exp(s)), "softplus" (softplus(s) + a), "sigmoid"
    (sigmoid(s + a) + b), "soft_clip" (exp(s / (1 + |s| / a))), "clamped" (exp(clamp(s, a, b)), with the gradient of
    exp(s)), "gated" (g = sigmoid(s + a), and (1 - g) * shift in place of the shift).

    Raises TypeError or ValueError that names what makes no sense.
    """

    layers: tuple[MADELayer, ...]
    """In an order in which they can be computed; the last are the outputs."""
    activation: str = "relu"
    """One of ACTIVATIONS; ELU and leaky ReLU with torch's usual slopes."""
    scale: str = "exp"
    """One of SCALES."""
    numbers: tuple[float, ...] = ()
    """As many as the scale has."""

    def __post_init__(self) -> None:
        for name, table in (("activation", ACTIVATIONS), ("scale", SCALES)):
            choice(name, getattr(self, name), tuple(table))
        count = NUMBERS.get(self.scale, 0)
        numbers = tuple(real("numbers", number) for number in _row("numbers", self.numbers))
        if len(numbers) != count or (self.scale == "soft_clip" and numbers[0] <= 0):
            raise ValueError(f"numbers: {count} for the scale {self.scale} wanted, got {shown(self.numbers)}")
        layers = tuple(instance("layers", layer, MADELayer) for layer in _row("layers", self.layers))
        if not layers:
            raise ValueError("layers: one or more wanted, got none")
        for i, layer in enumerate(layers):
            self._check_layer(f"layers[{i}]", layer, layers[:i])
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "numbers", numbers)

    @staticmethod
    def _check_layer(name: str, layer: MADELayer, before: tuple[MADELayer, ...]) -> None:
        whole(f"{name}.rows", layer.rows)
        for field in ("activated", "context", "gated"):
            flag(f"{name}.{field}", getattr(layer, field))
        for field, value in (("source", layer.source), ("adds", layer.adds)):
            whole(f"{name}.{field}", value, -1, len(before) - 1)
        if layer.source < 0 and layer.activated:
            raise ValueError(f"{name}: the variables have no activations")
        if layer.adds >= 0 and before[layer.adds].rows != layer.rows:
            raise ValueError(f"{name}.adds: a layer of {layer.rows} rows wanted, got {before[layer.adds].rows}")

    @staticmethod
    def feed_forward(
        D: int,
        hidden: Sequence[int],
        activation: str = "relu",
        scale: str = "exp",
        numbers: tuple[float, ...] = (),
        context: bool = False,
    ) -> "MADESpec":
        """Layers of these widths one after the other; `context` is added to the first."""
        D, context, choices = whole("D", D), flag("context", context), tuple(SCALES)
        rows = [*_row("hidden", hidden), D if choice("scale", scale, choices) == "none" else 2 * D]
        layers = (MADELayer(n, i - 1, i > 0, context=context and i == 0) for i, n in enumerate(rows))
        return MADESpec(tuple(layers), activation, scale, numbers)

    def columns(self, layer: int, D: int) -> int:
        """What a layer reads."""
        source = self.layers[whole("layer", layer, 0, len(self.layers) - 1)].source
        return whole("D", D) if source < 0 else self.layers[source].rows

    def sizes(self, D: int) -> dict[str, int]:
        """Axes of the params and of context and gates, for D variables."""
        return _sizes(self, whole("D", D))

    def starts(self, field: str) -> tuple[int, ...]:
        """Where each layer's columns of context or gates ("context", "gated") begin; -1 for those without."""
        return _starts(self, choice("field", field, ("context", "gated")))

    def check(self, sizes: dict[str, int]) -> None:
        """Raises ValueError where the tensors of a call, by the letters of their axes, do not fit."""
        D, outputs = sizes["D"], self.layers[-1].rows
        if outputs != (D if self.scale == "none" else 2 * D):
            raise ValueError(f"spec: {D if self.scale == 'none' else 2 * D} outputs for D={D} wanted, got {outputs}")
        names = {"W": "params.weight", "B": "params.bias", "U": "params.degrees", "C": "hidden_context", "G": "gates"}
        for letter, wanted in self.sizes(D).items():
            if sizes.get(letter, 0) != wanted:
                raise ValueError(f"{names[letter]}: {wanted} numbers for this spec wanted, got {sizes.get(letter, 0)}")


def _row(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: a tuple or list wanted, got {shown(value)}")
    return value


# Small nets spend as much time here as in their kernel, so all is kept.


@cache
def _sizes(spec: MADESpec, D: int) -> dict[str, int]:
    layers = spec.layers
    return {
        "W": sum(layer.rows * spec.columns(i, D) for i, layer in enumerate(layers)),
        "B": sum(layer.rows for layer in layers),
        "U": sum(layer.rows for layer in layers[:-1]),
        "C": sum(layer.rows for layer in layers if layer.context),
        "G": sum(layer.rows for layer in layers if layer.gated),
    }


@cache
def _starts(spec: MADESpec, field: str) -> tuple[int, ...]:
    has = [getattr(layer, field) for layer in spec.layers]
    ends = [0, *accumulate(layer.rows * has_it for layer, has_it in zip(spec.layers, has, strict=True))]
    return tuple(start if has_it else -1 for start, has_it in zip(ends[:-1], has, strict=True))


def wiring_of(spec: MADESpec) -> Wiring:
    """What operators take of a spec."""
    rows, activation, scale, first, second = _wiring_of(spec)
    return [*rows], activation, scale, first, second


@cache
def _wiring_of(spec: MADESpec) -> tuple[tuple[int, ...], int, int, float, float]:
    rows = tuple(int(number) for layer in spec.layers for number in layer)
    first, second = (*spec.numbers, 0.0, 0.0)[:2]
    return rows, list(ACTIVATIONS).index(spec.activation), list(SCALES).index(spec.scale), first, second


def spec_of(rows: Sequence[int], activation: int, scale: int, first: float, second: float) -> MADESpec:
    """The spec back from what operators take. Raises ValueError where it is none."""
    return _spec_of(tuple(rows), activation, scale, first, second)


@cache
def _spec_of(rows: tuple[int, ...], activation: int, scale: int, first: float, second: float) -> MADESpec:
    if len(rows) % 6 or not (0 <= activation < len(ACTIVATIONS) and 0 <= scale < len(SCALES)):
        raise ValueError(f"wiring: six numbers a layer, known activation and scale wanted, got {shown(list(rows))}")
    name = list(SCALES)[scale]
    return MADESpec(
        tuple(
            MADELayer(units, source, bool(activated), adds, bool(context), bool(gated))
            for units, source, activated, adds, context, gated in zip(*[iter(rows)] * 6, strict=True)
        ),
        list(ACTIVATIONS)[activation],
        name,
        (first, second)[: NUMBERS.get(name, 0)],
    )
