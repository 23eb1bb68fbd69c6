"""CPU bodies of a MADE flow's ops: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import struct
from array import array
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands
from vlae_fast.ops.made import derivative, implicit
from vlae_fast.ops.made.spec import MADESpec, spec_of, wiring_of
from vlae_fast.params import MADEParams

__all__ = [
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
    "made_flow_lattice",
    "made_forward",
    "made_forward_backward",
    "made_inverse",
    "made_inverse_backward",
]

_CPU = torch.device("cpu")
Params = list[Tensor]
"""The fields of MADEFlowParams, in order."""


def _made_flow(params: Params, **tensors: Tensor | None) -> tuple[Any, ...]:
    """MADEFlow of csrc/vlae.h, and addresses of the parameters: the leading arguments of the native functions."""
    sizes = operands("made_flow", _CPU, params, **tensors)
    values.degrees(params[-1], sizes["D"])
    return (*(sizes[a] for a in "NDMT"), sizes["R"] != sizes["D"]), addresses(*params)


def made_flow_forward(z: Tensor, params: Params, hidden_context: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.made_flow_forward`."""
    call = _made_flow(params, z=z, hidden_context=hidden_context)
    values.finite(z=z, hidden_context=hidden_context)
    eps, log_det = torch.empty_like(z), z.new_empty(len(z))
    inputs, outputs = addresses(z, hidden_context), addresses(eps, log_det)
    _native.made_flow_forward(*call, *inputs, torch.get_num_threads(), *outputs)
    return eps, log_det


def made_flow_forward_backward(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None
) -> list[Tensor]:
    """Gradients [dz, dhidden_context (may be empty), *dparams without degrees] of `made_flow_forward`."""
    call = _made_flow(params, z=z, hidden_context=hidden_context, deps=deps, dlog_det=dlog_det)
    dz, dparams = torch.empty_like(z), [torch.empty_like(p) for p in params[:-1]]
    dhidden_context = None if hidden_context is None else torch.empty_like(hidden_context)
    inputs, outputs = addresses(z, hidden_context, deps, dlog_det), addresses(dz, dhidden_context)
    _native.made_flow_backward(*call, *inputs, torch.get_num_threads(), *outputs, addresses(*dparams))
    return [dz, z.new_empty(0) if dhidden_context is None else dhidden_context, *dparams]


def made_flow_inverse(eps: Tensor, params: Params, hidden_context: Tensor | None) -> Tensor:
    """See `vlae_fast.reference.made_flow_inverse`."""
    call = _made_flow(params, eps=eps, hidden_context=hidden_context)
    values.finite(eps=eps, hidden_context=hidden_context)
    z = torch.empty_like(eps)
    _native.made_flow_inverse(*call, *addresses(eps, hidden_context), torch.get_num_threads(), z.data_ptr())
    return z


def made_flow_inverse_backward(dz: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None) -> list[Tensor]:
    """Gradients [deps, dhidden_context (may be empty), *dparams without degrees] of `made_flow_inverse`."""
    _made_flow(params, z=z, hidden_context=hidden_context, dz=dz)
    deps = implicit.deps(dz, z, params, hidden_context)
    return [deps, *made_flow_forward_backward(-deps, z.new_zeros(len(z)), z, params, hidden_context)[1:]]


def made_flow_lattice(values: Tensor, params: Params, grid: float, inverse: bool) -> Tensor:
    """z -> eps, or back, on multiples of `grid`, a power of two; the flow is one of shifts alone.

    Each shift is rounded to the lattice, so that the directions undo each other bit for bit; NaN where floats are too
    short for that.
    """
    call = _made_flow(params, z=values)
    result = torch.empty_like(values)
    _native.made_flow_lattice(*call, grid, inverse, values.data_ptr(), torch.get_num_threads(), result.data_ptr())
    return result


# `wiring` is what `spec.wiring_of` makes of a spec.


def _made(
    x: Tensor, params: Params, hidden_context: Tensor | None, gates: Tensor | None, wiring: Any, inverse: bool
) -> tuple[Tensor, Tensor]:
    name = "y" if inverse else "x"
    spec, sizes = _net(params, wiring, **{name: x}, hidden_context=hidden_context, gates=gates)
    values.finite(**{name: x}, hidden_context=hidden_context, gates=gates)
    layers = layers_of_call(spec, MADEParams(*params), sizes["D"], hidden_context, gates)
    return transform(x, _step(spec, params), layers, None, inverse)


def _step(spec: MADESpec, params: Params) -> "array[int]":
    """MADEStep of csrc/vlae.h."""
    return array("q", (params[3].data_ptr(), 0, len(spec.layers), *form(spec)))


def transform(
    x: Tensor, steps: "array[int]", layers: "array[int]", order: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    """made_transform of csrc/vlae.h: rows of MADEStep and MADELayer in two tables, and what they point to.

    x [N, D] is float32, contiguous and on the CPU, and everything fits: this is not checked here.
    """
    result, log_det = torch.empty_like(x), x.new_empty(len(x))
    call = _call(x, steps, layers, order, inverse)
    _native.made_transform(call, x.data_ptr(), torch.get_num_threads(), *addresses(result, log_det))
    return result, log_det


def _call(x: Tensor, steps: "array[int]", layers: "array[int]", order: Tensor | None, inverse: bool) -> tuple[Any, ...]:
    """MADE of csrc/vlae.h."""
    tables = steps.buffer_info()[0], layers.buffer_info()[0]
    return *x.shape, len(steps) // STEP, *tables, *addresses(order), inverse


STEP, LAYER = 7, 15
"""Numbers in a MADEStep and a MADELayer."""


@cache
def form(spec: MADESpec) -> tuple[int, int, int, int]:
    """The last numbers of a MADEStep."""
    _, activation, scale, *numbers = wiring_of(spec)
    return activation, scale, *struct.unpack("2q", struct.pack("2d", *numbers))


def _net(params: Params, wiring: Any, **tensors: Tensor | None) -> tuple[MADESpec, dict[str, int]]:
    """The spec, and sizes that fit it and one another."""
    spec, sizes = spec_of(*wiring), operands("made", _CPU, params, **tensors)
    spec.check(sizes)
    values.order(params[2], params[3])
    return spec, sizes


def layers_of_call(
    spec: MADESpec, params: MADEParams, D: int, hidden_context: Tensor | None, gates: Tensor | None
) -> "array[int]":
    """MADELayer of csrc/vlae.h, one after the other."""
    weight, bias, degrees, _ = addresses(*params)
    contexts, gates_at = spec.starts("context"), spec.starts("gated")
    table, sizes = array("q"), spec.sizes(D)
    for i, (w, b, d, rows, columns, *wiring) in enumerate(_offsets(spec, D)):
        added = 0 if hidden_context is None or contexts[i] < 0 else hidden_context.data_ptr() + 4 * contexts[i]
        gate = 0 if gates is None or gates_at[i] < 0 else gates.data_ptr() + 4 * gates_at[i]
        pointers = weight + w, bias + b, 0, 0, degrees + d, added, gate
        table.extend((*pointers, rows, columns, sizes["C"], sizes["G"], *wiring))
    return table


@cache
def _offsets(spec: MADESpec, D: int) -> list[tuple[int, ...]]:
    """Of each layer: bytes before its weight, bias and degrees; rows, columns, and the last numbers of a MADELayer."""
    activated = {layer.source for layer in spec.layers if layer.activated}
    found: list[tuple[int, ...]] = []
    w = b = d = 0
    for i, layer in enumerate(spec.layers):
        columns = spec.columns(i, D)
        wiring = layer.source, int(layer.activated), layer.adds, int(i in activated)
        found.append((w, b, d, layer.rows, columns, *wiring))
        w, b, d = w + 4 * layer.rows * columns, b + 4 * layer.rows, d + 8 * layer.rows
    return found


def made_forward(
    x: Tensor, params: Params, hidden_context: Tensor | None, gates: Tensor | None, *wiring: Any
) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.made_forward`."""
    return _made(x, params, hidden_context, gates, wiring, False)


def made_inverse(
    y: Tensor, params: Params, hidden_context: Tensor | None, gates: Tensor | None, *wiring: Any
) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.made_inverse`."""
    return _made(y, params, hidden_context, gates, wiring, True)


def made_forward_backward(
    dresult: Tensor,
    dlog_det: Tensor,
    x: Tensor,
    params: Params,
    hidden_context: Tensor | None,
    gates: Tensor | None,
    *wiring: Any,
) -> list[Tensor]:
    """Gradients [dx, dweight, dbias, dhidden_context, dgates] of `made_forward`; the last two may be empty."""
    tensors = {"hidden_context": hidden_context, "gates": gates, "dresult": dresult, "dlog_det": dlog_det}
    spec, _ = _net(params, wiring, x=x, **tensors)
    return derivative.forward_gradients(dresult, dlog_det, x, MADEParams(*params), spec, hidden_context, gates)


def made_inverse_backward(
    dresult: Tensor,
    dlog_det: Tensor,
    x: Tensor,
    params: Params,
    hidden_context: Tensor | None,
    gates: Tensor | None,
    *wiring: Any,
) -> list[Tensor]:
    """Gradients [dy, dweight, dbias, dhidden_context, dgates] of `made_inverse`; the last two may be empty."""
    tensors = {"hidden_context": hidden_context, "gates": gates, "dresult": dresult, "dlog_det": dlog_det}
    spec, sizes = _net(params, wiring, x=x, **tensors)
    layers = layers_of_call(spec, MADEParams(*params), sizes["D"], hidden_context, gates)
    step, dy = _step(spec, params), torch.empty_like(x)
    inputs = addresses(x, dresult, dlog_det)
    _native.made_inverse_backward(_call(x, step, layers, None, False), *inputs, torch.get_num_threads(), dy.data_ptr())
    return derivative.inverse_gradients(dy, dlog_det, x, MADEParams(*params), spec, hidden_context, gates)
