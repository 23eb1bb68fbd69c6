"""CPU bodies of a MADE flow's ops: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands
from vlae_fast.ops.made import implicit

__all__ = ["made_flow_forward", "made_flow_forward_backward", "made_flow_inverse", "made_flow_inverse_backward"]

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
