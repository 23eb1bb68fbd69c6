"""MADE flows: addresses and sizes go to the CUDA extension (csrc/vlae_cuda.h)."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

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


class _MADEFlow:
    """Sizes, addresses and scratch of one call of a function of the CUDA extension."""

    def __init__(self, name: str, y: Tensor, params: Params, hidden_context: Tensor | None) -> None:
        N, D = y.shape
        T, M = params[1].shape
        R = params[5].shape[1]
        if R not in (D, 2 * D):
            raise ValueError(f"params: bias3 has {R} rows, {D} or {2 * D} wanted")
        if M and not D:
            raise ValueError(f"params: {M} hidden units without inputs; there are no degrees for them")
        shapes = ((T, M, D), (T, M), (T, M, M), (T, M), (T, R, M), (T, R))
        self.device = y.device
        addresses = (
            *(self.address(f"params[{i}]", t, shapes[i]) for i, t in enumerate(params[:6])),
            self.address("params[6]", params[6], (M,), torch.int64),
        )
        leading = self.address("z", y, (N, D)), self.address("hidden_context", hidden_context, (N, T, M))
        self.function, sizes = getattr(_cuda(), name), ((N, D, M, T), R != D)
        self.y, self.operands = y, (*sizes, addresses, *leading)
        self.scratch_of, self.sizes = getattr(_cuda(), f"{name}_scratch"), sizes

    def address(
        self, name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> int:
        """Address of a tensor that has exactly this shape and dtype, is contiguous and on z's device; 0 for None."""
        if tensor is None:
            return 0
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device != self.device:
            raise ValueError(
                f"{name}: a contiguous {dtype} tensor of shape {shape} on {self.device} wanted, "
                f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )
        return tensor.data_ptr()

    def run(self, inputs: tuple[int, ...], *outputs: Any) -> None:
        """Enqueues the function on the current stream of z's device."""
        with torch.cuda.device_of(self.y):
            stream = torch.cuda.current_stream().cuda_stream if self.y.is_cuda else 0
            scratch = _scratch(self.y, self.scratch_of(*self.sizes))
            self.function(*self.operands, *inputs, scratch.data_ptr(), stream, *outputs)


def made_flow_forward(z: Tensor, params: Params, hidden_context: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `reference.made_flow_forward`."""
    call = _MADEFlow("made_flow_forward", z, params, hidden_context)
    eps, log_det = torch.empty_like(z), z.new_empty(len(z))
    call.run((), eps.data_ptr(), log_det.data_ptr())
    return eps, log_det


def made_flow_forward_backward(
    deps: Tensor, dlog_det: Tensor, z: Tensor, params: Params, hidden_context: Tensor | None
) -> list[Tensor]:
    """Gradients [dz, dhidden_context (may be empty), *dparams without degrees] of `made_flow_forward`."""
    call = _MADEFlow("made_flow_backward", z, params, hidden_context)
    dz, dparams = torch.empty_like(z), [torch.empty_like(p) for p in params[:6]]
    dhidden_context = z.new_empty(0) if hidden_context is None else torch.empty_like(hidden_context)
    call.run(
        (call.address("deps", deps, tuple(z.shape)), call.address("dlog_det", dlog_det, tuple(z.shape[:1]))),
        dz.data_ptr(),
        0 if hidden_context is None else dhidden_context.data_ptr(),
        tuple(t.data_ptr() for t in dparams),
    )
    return [dz, dhidden_context, *dparams]


def made_flow_inverse(eps: Tensor, params: Params, hidden_context: Tensor | None) -> Tensor:
    """See `reference.made_flow_inverse`."""
    call = _MADEFlow("made_flow_inverse", eps, params, hidden_context)
    z = torch.empty_like(eps)
    call.run((), z.data_ptr())
    return z
