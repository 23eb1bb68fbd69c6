"""What the compiled bodies want of the tensors of a call, the same on the CPU (`native`) and on a GPU (`gpu`).

`vlae_fast.ops` checks arguments with messages for people; what stands here makes sure that no call, however made, lets
a kernel read or write out of bounds. Shapes, types, layout and device are looked at, values are not: nothing waits for
a GPU. The functions named like ops take the device that is wanted (None: that of the first tensor) and tensors by
name, raise TypeError (no tensor) or ValueError, and return the sizes of the call.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ConvSizes",
    "MADESizes",
    "PixelCNNSizes",
    "addresses",
    "made_flow",
    "masked_conv3x3",
    "pixelcnn",
    "weight_norm",
]

Params = Sequence[Tensor]
"""The fields of PixelCNNParams or MADEFlowParams, in order."""
Tensors = Mapping[str, Tensor | None]
Shape = tuple[int, ...]

_OPTIONAL = {"gain", "residual", "given", "hidden_context"}
_DTYPES = {"given": torch.int8, "live": torch.int64, "params.degrees": torch.int64}
"""Of those that are not float32."""


class ConvSizes(NamedTuple):
    """Of a masked convolution; `taps` is 4 (mask A) or 5 (mask B)."""

    N: int
    C: int
    K: int
    H: int
    W: int
    taps: int


class PixelCNNSizes(NamedTuple):
    """Of a PixelCNN; S hidden weights are stored."""

    N: int
    H: int
    W: int
    C: int
    K: int
    L: int
    P: int
    S: int


class MADESizes(NamedTuple):
    """Of a MADE flow."""

    N: int
    D: int
    M: int
    T: int


def masked_conv3x3(device: torch.device | None, mask: str, tensors: Tensors) -> ConvSizes:
    """Of x, weight and, in any choice, bias, gain, residual and dy."""
    N, C, H, W = _axes(tensors, "x", 4)
    K, *_ = _axes(tensors, "weight", 4)
    if mask not in ("A", "B"):
        raise ValueError(f"mask: 'A' or 'B' wanted, got {mask!r}")
    image, channels = (N, K, H, W), (K,)
    shapes = {
        "x": (N, C, H, W), "weight": (K, C, 3, 3), "bias": channels, "gain": channels, "residual": image, "dy": image,
    }  # fmt: skip
    _check(device, shapes, tensors)
    return ConvSizes(N, C, K, H, W, 4 if mask == "A" else 5)


def pixelcnn(
    device: torch.device | None, params: Params, tensors: Tensors, block_convs: int, after: Sequence[int], stride: int
) -> PixelCNNSizes:
    """Of parameters, wiring, context and, in any choice, x, dlogits, dlog_prob, uniforms and given."""
    tensors = {**tensors, **_named(params, _PIXELCNN_FIELDS)}
    N, K, H, W = _axes(tensors, "context", 4)
    L, C = _axes(tensors, "params.hidden_gain", 2)
    S, *_ = _axes(tensors, "params.hidden_weight", 5)
    P, *_ = _axes(tensors, "params.pointwise_weight", 4)
    fields = (
        (C, 1, 3, 3), (C, K, 3, 3), (C,), (S, C, C, 3, 3), (L, C), (L, C), (P, 2, C, C), (P, 2, C), (C,), (1,),
    )  # fmt: skip
    image, pixels = (N, 1, H, W), (N, H, W)
    shapes: dict[str, Shape] = {
        "context": (N, K, H, W), "x": image, "dlogits": image, "dlog_prob": (N,), "uniforms": pixels, "given": pixels,
    }  # fmt: skip
    _check(device, shapes | dict(zip(_PIXELCNN_FIELDS, fields, strict=True)), tensors)
    blocks = L // block_convs if block_convs > 0 else 0
    if S not in (1, L) or len(after) != P or stride < 1 or blocks * block_convs != L:
        raise ValueError(f"spec: does not fit L = {L}, S = {S}, P = {P}")
    if any(not 0 <= position < blocks for position in after):
        raise ValueError(f"spec: pointwise_after {list(after)} wanted in 0..{blocks - 1}")
    return PixelCNNSizes(N, H, W, C, K, L, P, S)


def made_flow(device: torch.device | None, params: Params, tensors: Tensors) -> tuple[MADESizes, bool]:
    """Of parameters, z or eps (first) and, in any choice, hidden_context, deps, dlog_det, dz; and whether it scales."""
    y, *_ = tensors
    tensors = {**tensors, **_named(params, _MADE_FIELDS)}
    N, D = _axes(tensors, y, 2)
    T, M = _axes(tensors, "params.bias1", 2)
    _, R = _axes(tensors, "params.bias3", 2)
    if R not in (D, 2 * D):
        raise ValueError(f"params.bias3: [T, {D}] or [T, {2 * D}] wanted, got {R} rows")
    if M and not D:
        raise ValueError(f"params: {M} hidden units without inputs; there are no degrees for them")
    fields = (T, M, D), (T, M), (T, M, M), (T, M), (T, R, M), (T, R), (M,)
    shapes: dict[str, Shape] = {y: (N, D), "hidden_context": (N, T, M), "deps": (N, D), "dlog_det": (N,), "dz": (N, D)}
    _check(device, shapes | dict(zip(_MADE_FIELDS, fields, strict=True)), tensors)
    return MADESizes(N, D, M, T), R != D


def weight_norm(device: torch.device | None, tensors: Tensors) -> tuple[int, int]:
    """Of v, g, live and maybe dw: R rows of n entries."""
    R, n = _axes(tensors, "v", 2)
    _check(device, {"v": (R, n), "g": (R,), "live": (R,), "dw": (R, n)}, tensors)
    return R, n


def addresses(*tensors: Tensor | None) -> list[int]:
    """Where the tensors stand in memory; 0 for None."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


_PIXELCNN_FIELDS = [
    f"params.{name}"
    for name in (
        "image_weight", "context_weight", "input_bias", "hidden_weight", "hidden_gain", "hidden_bias",
        "pointwise_weight", "pointwise_bias", "output_weight", "output_bias",
    )
]  # fmt: skip
_MADE_FIELDS = [f"params.{name}" for name in ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3", "degrees")]


def _named(params: Params, fields: Sequence[str]) -> dict[str, Tensor]:
    if len(params) != len(fields):
        raise ValueError(f"params: {len(fields)} tensors wanted, got {len(params)}")
    return dict(zip(fields, params, strict=True))


def _axes(tensors: Tensors, name: str, count: int) -> torch.Size:
    """The sizes of a tensor of `count` axes."""
    tensor = tensors[name]
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: a tensor wanted, got {type(tensor).__name__}")
    if tensor.dim() != count:
        raise ValueError(f"{name}: {count} axes wanted, got shape {list(tensor.shape)}")
    return tensor.shape


def _check(device: torch.device | None, shapes: Mapping[str, Shape], tensors: Tensors) -> None:
    """Every tensor has its shape and dtype, is contiguous and on the one device; optional ones may be None."""
    for name, tensor in tensors.items():
        if tensor is None and name in _OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: a tensor wanted, got {type(tensor).__name__}")
        device = device or tensor.device
        dtype, shape = _DTYPES.get(name, torch.float32), shapes[name]
        if not (
            tensor.shape == shape
            and tensor.dtype == dtype
            and tensor.device == device
            and tensor.layout == torch.strided
            and tensor.is_contiguous()
        ):
            raise ValueError(
                f"{name}: a contiguous {dtype} tensor of shape {list(shape)} on {device} wanted, got "
                f"{tensor.dtype} {list(tensor.shape)} of strides {_strides(tensor)} on {tensor.device}"
            )


def _strides(tensor: Tensor) -> list[int] | str:
    return list(tensor.stride()) if tensor.layout == torch.strided else str(tensor.layout)
