"""MADE flows: addresses and sizes go to the CUDA extension (csrc/vlae_cuda.h)."""

from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from vlae_fast.ops.arguments import addresses, operands
from vlae_fast.ops.launch import check_counts
from vlae_fast.ops.made import implicit

__all__ = [
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
    "made_forward",
    "made_forward_backward",
    "made_inverse",
    "made_inverse_backward",
]

Params = list[Tensor]
"""The fields of MADEFlowParams, in order."""


def _cuda() -> ModuleType:
    """The CUDA extension. Raises RuntimeError where the package was built without it."""
    try:
        from vlae_fast import _cuda as module
    except ImportError as error:
        raise RuntimeError(
            f"vlae_fast: no CUDA extension ({error}); MADE flows on a GPU need it: install vlae_fast with nvcc in PATH"
        ) from error
    return module


def _scratch(y: Tensor, count: int) -> Tensor:
    """Memory on y's device for a call to use; torch gives it to others once the stream has passed the call."""
    return y.new_empty(count)


def _run(name: str, sizes: dict[str, int], y: Tensor, params: Params, inputs: list[int], *outputs: Any) -> None:
    """Enqueues a function of the CUDA extension on the current stream of y's device."""
    N, D, M, T, R = (sizes[a] for a in "NDMTR")
    check_counts(samples=N, units=40 * (M + 3 * D), units_of_all_steps=T * max(M, 2 * D))
    function, scratch_of = getattr(_cuda(), name), getattr(_cuda(), f"{name}_scratch")
    with torch.cuda.device_of(y):
        stream = torch.cuda.current_stream().cuda_stream if y.is_cuda else 0
        flow = N, D, M, T, R != D
        scratch = _scratch(y, scratch_of(flow))
        function(flow, addresses(*params), *inputs, scratch.data_ptr(), stream, *outputs)


def made_flow_forward(z: Tensor, params: Params, hidden_context: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.made_flow_forward`."""
    sizes = operands("made_flow", None, params, z=z, hidden_context=hidden_context)
    eps, log_det = torch.empty_like(z), z.new_empty(len(z))
    _run("made_flow_forward", sizes, z, params, addresses(z, hidden_context), *addresses(eps, log_det))
    return eps, log_det


def made_flow_forward_backward(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None
) -> list[Tensor]:
    """Gradients [dz, dhidden_context (may be empty), *dparams without degrees] of `made_flow_forward`."""
    sizes = operands("made_flow", None, params, z=z, hidden_context=hidden_context, deps=deps, dlog_det=dlog_det)
    dz, dparams = torch.empty_like(z), [torch.empty_like(p) for p in params[:-1]]
    dhidden_context = None if hidden_context is None else torch.empty_like(hidden_context)
    outputs = *addresses(dz, dhidden_context), addresses(*dparams)
    _run("made_flow_backward", sizes, z, params, addresses(z, hidden_context, deps, dlog_det), *outputs)
    return [dz, z.new_empty(0) if dhidden_context is None else dhidden_context, *dparams]


def made_flow_inverse(eps: Tensor, params: Params, hidden_context: Tensor | None) -> Tensor:
    """See `vlae_fast.reference.made_flow_inverse`."""
    sizes = operands("made_flow", None, params, eps=eps, hidden_context=hidden_context)
    z = torch.empty_like(eps)
    _run("made_flow_inverse", sizes, eps, params, addresses(eps, hidden_context), z.data_ptr())
    return z


def made_flow_inverse_backward(dz: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None) -> list[Tensor]:
    """Gradients [deps, dhidden_context (may be empty), *dparams without degrees] of `made_flow_inverse`."""
    operands("made_flow", None, params, z=z, hidden_context=hidden_context, dz=dz)
    deps = implicit.deps(dz, z, params, hidden_context)
    return [deps, *made_flow_forward_backward(-deps, z.new_zeros(len(z)), z, params, hidden_context)[1:]]


def _no_body(op: str) -> Any:
    def body(*arguments: Any) -> NoReturn:
        raise NotImplementedError(
            f"{op}: no CUDA body for nets of any wiring: move the tensors to the CPU, or use "
            "vlae_fast.use_backend('reference'); made_flow_forward and made_flow_inverse have CUDA bodies"
        )

    return body


made_forward, made_forward_backward = _no_body("made_forward"), _no_body("made_forward_backward")
made_inverse, made_inverse_backward = _no_body("made_inverse"), _no_body("made_inverse_backward")
