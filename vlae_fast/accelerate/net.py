"""A masked net of another library for `ops.made_inverse`: masks become degrees, weights are read at each call."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vlae_fast import ops
from vlae_fast.ops import MADELayer, MADESpec
from vlae_fast.ops.made.cpu import form
from vlae_fast.ops.made.net import layers_of
from vlae_fast.params import MADEParams

__all__ = ["Diagonal", "Net", "Plan", "Stage", "UnsupportedError", "activation_name"]


class UnsupportedError(Exception):
    """Why a transform is not sped up, or not now."""


class Stage(NamedTuple):
    """A layer of a net: a masked linear map of that library, and the fields of a MADELayer."""

    linear: Any
    """Has weight, bias (or None) and mask [rows, columns]."""
    source: int = -1
    activated: bool = False
    adds: int = -1
    context: Callable[[Tensor], Tensor] | None = None
    """The context [N, .] -> what is added [N, rows]."""
    gate: Callable[[Tensor], Tensor] | None = None
    """The context -> what is multiplied with [N, rows]."""
    columns: slice = slice(None)
    """Those of the weight that belong to the source; the others are the context's."""

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Weight [rows, columns of all] and bias."""
        return _held(self.linear, "_parameters", "weight"), _held(self.linear, "_parameters", "bias")


class Diagonal:
    """A batch normalisation in evaluation as a masked linear map."""

    def __init__(self, norm: nn.BatchNorm1d) -> None:
        self.norm = norm
        self.mask = torch.eye(norm.num_features)

    @property
    def weight(self) -> Tensor:
        """[units, units]."""
        return torch.diag(self._scale())

    @property
    def bias(self) -> Tensor:
        """[units]."""
        norm: Any = self.norm
        bias: Tensor = -norm.running_mean * self._scale()
        return bias if norm.bias is None else bias + norm.bias

    def _scale(self) -> Tensor:
        norm: Any = self.norm
        scale: Tensor = (norm.running_var + norm.eps).rsqrt()
        return scale if norm.weight is None else scale * norm.weight


@dataclass(frozen=True)
class Plan:
    """What follows from the masks."""

    masks: list[Tensor]
    """Those that it was made from."""
    versions: list[int]
    """How often each had been written to."""
    spec: MADESpec
    degrees: Tensor
    positions: Tensor
    forbidden: Tensor | None
    """[W] bool: connections that the masks forbid, where the degrees forbid fewer; else None."""
    step: "array[int]"
    """The net as a MADEStep of csrc/vlae.h."""
    layers: "array[int]"
    """Its MADELayers, without the addresses of weights, biases, contexts and gates."""


class Net:
    """The stages of a transform's net, in an order in which they can be computed; the last are the outputs.

    `shifts` and `scales` are the rows of the last stage that shift each variable, and those that become scales.
    """

    def __init__(
        self,
        D: int,
        stages: Sequence[Stage],
        activation: str,
        shifts: slice,
        scales: slice,
        scale: str,
        numbers: tuple[float, ...],
    ) -> None:
        self.D, self.stages, self.activation = D, stages, activation
        self.scale, self.numbers = scale, numbers
        rows = torch.arange(2 * D)
        self.rows = torch.cat([rows[shifts], rows[scales]])
        self._ordered = torch.equal(self.rows, rows)
        self._plan = self._made_plan()

    def plan(self) -> Plan:
        """What follows from the masks as they are now."""
        masks = self._masks()
        if not all(map(is_, masks, self._plan.masks)) or _versions(masks) != self._plan.versions:
            self._plan = self._made_plan()
        return self._plan

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [N, D] and log_det [N] for y [N, D] and the context [N, .], differentiable in all of them and the weights.

        Raises UnsupportedError where the tensors are not what the op takes, and what `ops.made_inverse` raises.
        """
        if y.shape[1] != self.D or (context is not None and len(context) not in (1, len(y))):
            raise UnsupportedError("rows of other sizes")
        plan = self.plan()
        weight = torch.cat([self._weight(i).flatten() for i in range(len(self.stages))])
        bias = torch.cat([self._bias(i) for i in range(len(self.stages))])
        for tensor in (y, weight, *(() if context is None else (context,))):
            if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
                raise UnsupportedError(f"{tensor.dtype} on {tensor.device}: float32 on the CPU wanted")
        if plan.forbidden is not None:
            weight = weight.masked_fill(plan.forbidden, 0.0)
        params = MADEParams(weight, bias, plan.degrees, plan.positions)
        added, gates = (self._of_context(field, context, len(y)) for field in ("context", "gate"))
        return ops.made_inverse(y, params, plan.spec, added, gates)

    def _of_context(self, field: str, context: Tensor | None, N: int) -> Tensor | None:
        functions = [f for stage in self.stages if (f := getattr(stage, field)) is not None]
        if not functions or context is None:
            return None
        made = [f(context) for f in functions]
        return (made[0] if len(made) == 1 else torch.cat(made, 1)).expand(N, -1)

    def _weight(self, i: int) -> Tensor:
        stage = self.stages[i]
        weight: Tensor = stage.linear.weight[:, stage.columns]
        return weight if self._ordered or not self._outputs(i) else weight[self.rows]

    def _bias(self, i: int) -> Tensor:
        linear = self.stages[i].linear
        bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
        return bias if self._ordered or not self._outputs(i) else bias[self.rows]

    def _outputs(self, i: int) -> bool:
        """Whether a stage has the rows of the outputs: the last one, and what it adds."""
        return i in (len(self.stages) - 1, self.stages[-1].adds)

    def _masks(self) -> list[Tensor]:
        return [_held(stage.linear, "_buffers", "mask") for stage in self.stages]

    def _made_plan(self) -> Plan:
        masks, D = self._masks(), self.D
        used = [(mask != 0)[:, stage.columns] for mask, stage in zip(masks, self.stages, strict=True)]
        used = [mask[self.rows] if self._outputs(i) else mask for i, mask in enumerate(used)]
        positions = _positions(self._reached(used))
        degrees: list[Tensor] = []
        for mask, stage in zip(used, self.stages, strict=True):
            seen = positions + 1 if stage.source < 0 else degrees[stage.source]
            own = (mask * seen).amax(1) if mask.shape[1] else torch.zeros(len(mask), dtype=torch.int64)
            degrees.append(own if stage.adds < 0 else torch.maximum(own, degrees[stage.adds]))
        layers = tuple(
            MADELayer(
                len(mask), stage.source, stage.activated, stage.adds, stage.context is not None, stage.gate is not None
            )
            for mask, stage in zip(used, self.stages, strict=True)
        )
        spec = MADESpec(layers, self.activation, self.scale, self.numbers)
        flat = torch.cat([torch.zeros(0, dtype=torch.int64), *degrees[:-1]])
        sizes = spec.sizes(D)
        implied = layers_of(MADEParams(torch.zeros(sizes["W"]), torch.zeros(sizes["B"]), flat, positions), spec)
        exact = all(torch.equal(layer.mask != 0, mask) for layer, mask in zip(implied, used, strict=True))
        forbidden = None if exact else ~torch.cat([mask.flatten() for mask in used])
        step = array("q", (positions.data_ptr(), 0, len(layers), *form(spec)))
        table = array("q", (number for layer in self._table(spec, flat, forbidden) for number in layer))
        return Plan(masks, _versions(masks), spec, flat, positions, forbidden, step, table)

    def _table(self, spec: MADESpec, degrees: Tensor, forbidden: Tensor | None) -> Iterator[tuple[int, ...]]:
        """MADELayers without addresses of what is read anew at each call."""
        activated = {layer.source for layer in spec.layers if layer.activated}
        connections, units = 0, 0
        for i, (layer, stage) in enumerate(zip(spec.layers, self.stages, strict=True)):
            rows = 0 if self._ordered or not self._outputs(i) else self.rows.data_ptr()
            barred = 0 if forbidden is None else forbidden.data_ptr() + connections
            own = degrees.data_ptr() + 8 * units
            wiring = layer.source, int(layer.activated), layer.adds, int(i in activated)
            yield 0, 0, rows, barred, own, 0, 0, layer.rows, stage.linear.mask.shape[1], 0, 0, *wiring
            connections, units = connections + layer.rows * spec.columns(i, self.D), units + layer.rows

    def _reached(self, used: list[Tensor]) -> Tensor:
        """[D, D] bool: on which variables each output's variable depends, over all paths."""
        reached: list[Tensor] = []
        for mask, stage in zip(used, self.stages, strict=True):
            before = torch.eye(self.D) if stage.source < 0 else reached[stage.source]
            through = mask.float() @ before
            reached.append(((through if stage.adds < 0 else through + reached[stage.adds]) > 0).float())
        return reached[-1].view(2, self.D, self.D).amax(0) > 0


def _held(part: Any, kind: str, name: str) -> Any:
    """`part.<name>`; nn.Module's own way to a tensor is slow."""
    held = getattr(part, kind, {}).get(name)
    return getattr(part, name) if held is None else held


def _versions(masks: list[Tensor]) -> list[int]:
    try:
        return [mask._version for mask in masks]
    except RuntimeError:  # inference tensors count no versions
        return []


def _positions(depends: Tensor) -> Tensor:
    """An order in which each variable depends on earlier ones alone. Raises UnsupportedError where there is none."""
    while not torch.equal(closed := depends | (depends.float() @ depends.float() > 0), depends):
        depends = closed
    if depends.diagonal().any():
        raise UnsupportedError("its masks leave no order of the variables")
    return depends.sum(1).argsort(stable=True).argsort()


_ACTIVATIONS: dict[Any, str] = {
    torch.relu: "relu",
    nn.functional.relu: "relu",
    nn.ReLU: "relu",
    torch.tanh: "tanh",
    nn.functional.tanh: "tanh",
    nn.Tanh: "tanh",
    nn.functional.elu: "elu",
    torch.sigmoid: "sigmoid",
    nn.functional.sigmoid: "sigmoid",
    nn.Sigmoid: "sigmoid",
    nn.functional.silu: "silu",
    nn.SiLU: "silu",
    nn.functional.leaky_relu: "leaky_relu",
    nn.Identity: "identity",
}


def activation_name(activation: Any) -> str:
    """What a MADESpec calls a function or a module. Raises UnsupportedError where it knows none."""
    kind = type(activation) if isinstance(activation, nn.Module) else activation
    if kind is nn.ELU and activation.alpha == 1:
        return "elu"
    if kind is nn.LeakyReLU and activation.negative_slope == 0.01:
        return "leaky_relu"
    try:
        return _ACTIVATIONS[kind]
    except (KeyError, TypeError):
        raise UnsupportedError(f"activation {getattr(kind, '__name__', kind)}") from None
