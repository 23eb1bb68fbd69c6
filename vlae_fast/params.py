"""The weights that the ops take, plain tensors by name, and the one table of the shapes of all that ops take.

Letters: N batch, C/K channels in/out (K context channels of a PixelCNN), H/W rows/columns, L mask-B layers, P 1x1
blocks, S stored hidden weights, D latent size, M hidden units, T flow steps, R rows of n entries.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

__all__ = [
    "DTYPES",
    "OPTIONAL",
    "PARAMS",
    "SHAPES",
    "MADEFlowParams",
    "MADEParams",
    "PixelCNNParams",
    "ResNetBlockParams",
    "check_sizes",
    "resnet_block",
]


class PixelCNNParams(NamedTuple):
    """Plain (already weight-normalised) tensors of a PixelCNN; taps that a mask forbids are ignored."""

    image_weight: Annotated[Tensor, "C 1 3 3"]
    """[C, 1, 3, 3], mask A."""
    context_weight: Annotated[Tensor, "C K 3 3"]
    """[C, K, 3, 3], no mask; K = 0 without context."""
    input_bias: Annotated[Tensor, "C"]
    """[C]."""
    hidden_weight: Annotated[Tensor, "S C C 3 3"]
    """[S, C, C, 3, 3], mask B; S = 1 (tied: one weight for all layers) or L."""
    hidden_gain: Annotated[Tensor, "L C"]
    """[L, C]."""
    hidden_bias: Annotated[Tensor, "L C"]
    """[L, C]."""
    pointwise_weight: Annotated[Tensor, "P 2 C C"]
    """[P, 2, C, C]: block, first or second convolution, out, in."""
    pointwise_bias: Annotated[Tensor, "P 2 C"]
    """[P, 2, C]."""
    output_weight: Annotated[Tensor, "C"]
    """[C]."""
    output_bias: Annotated[Tensor, "1"]
    """[1]."""


class MADEFlowParams(NamedTuple):
    """Plain tensors of T MADE steps with two hidden layers; connections that the degrees forbid are ignored."""

    weight1: Annotated[Tensor, "T M D"]
    """[T, M, D]."""
    bias1: Annotated[Tensor, "T M"]
    """[T, M]."""
    weight2: Annotated[Tensor, "T M M"]
    """[T, M, M]."""
    bias2: Annotated[Tensor, "T M"]
    """[T, M]."""
    weight3: Annotated[Tensor, "T R M"]
    """[T, D, M] (mean only) or [T, 2D, M] (rows 0..D-1 mean, D..2D-1 log scale)."""
    bias3: Annotated[Tensor, "T R"]
    """[T, D] or [T, 2D]."""
    degrees: Annotated[Tensor, "M"]
    """[M] int64, non-decreasing, in 0..D-1; the same for both hidden layers."""


class MADEParams(NamedTuple):
    """Plain tensors of one autoregressive net of any wiring (`ops.MADESpec`), those of its layers one after the other.

    A unit of degree d sees the d variables that come first and the units of degree <= d; the outputs of a variable see
    what stands before it. Connections that this forbids are ignored.
    """

    weight: Annotated[Tensor, "W"]
    """[W]: [rows, columns] of each layer."""
    bias: Annotated[Tensor, "B"]
    """[B]: [rows] of each layer."""
    degrees: Annotated[Tensor, "U"]
    """[U] int64 in 0..D, in any order: [rows] of each layer but the last."""
    positions: Annotated[Tensor, "D"]
    """[D] int64: where each variable comes in the order; 0..D-1, each once."""


class ResNetBlockParams(NamedTuple):
    """Plain tensors of a residual block with C channels in, M in the middle and K out, or of the last convolution.

    ========  ==================================================================================  ==================
    kind      result                                                                              skip
    ========  ==================================================================================  ==================
    "same"    `x + scale * conv2(elu(conv1(elu(x))))`                                             none, C = K
    "down"    half as many rows and columns, rounded up: conv1 and skip have stride 2             [K, C, 3, 3]
    "up"      twice as many, or one less: conv2 and skip are transposed convolutions of stride 2  [C, K, 3, 3]
    "output"  `conv1(elu(x))`, M = K                                                              none, nor a conv2
    ========  ==================================================================================  ==================
    """

    kind: str
    """same, down, up or output."""
    conv1_weight: Tensor
    """[M, C, 3, 3]."""
    conv1_bias: Tensor
    """[M]."""
    conv2_weight: Tensor | None = None
    """[K, M, 3, 3]; up: [M, K, 3, 3]."""
    conv2_bias: Tensor | None = None
    """[K]."""
    skip_weight: Tensor | None = None
    """See above."""
    skip_bias: Tensor | None = None
    """[K]."""
    size: tuple[int, int] | None = None
    """Rows and columns to go up to; None for twice as many."""


def resnet_block(kind: str, tensors: Sequence[Tensor], size: tuple[int, int] | None = None) -> ResNetBlockParams:
    """A block of as many tensors as there are, in the order of the fields."""
    names = ResNetBlockParams._fields[1 : 1 + len(tensors)]
    fields: dict[str, Any] = dict(zip(names, tensors, strict=True))
    return ResNetBlockParams(kind=kind, size=size, **fields)


PARAMS: dict[str, type[PixelCNNParams] | type[MADEFlowParams] | type[MADEParams]] = {
    "pixelcnn": PixelCNNParams, "made_flow": MADEFlowParams, "made": MADEParams,
}  # fmt: skip
"""Op -> the class of its params."""


def _named(params: type) -> dict[str, str]:
    hints = get_type_hints(params, include_extras=True)
    return {f"params.{name}": hint.__metadata__[0] for name, hint in hints.items()}


SHAPES: dict[str, dict[str, str]] = {
    "masked_conv3x3": {
        "x": "N C H W", "weight": "K C 3 3", "bias": "K", "gain": "K", "residual": "N K H W", "dy": "N K H W",
    },
    "pixelcnn": {
        "x": "N 1 H W", "context": "N K H W", "uniforms": "N H W", "given": "N H W", "dlogits": "N 1 H W",
        "dlog_prob": "N",
    } | _named(PixelCNNParams),
    "made_flow": {
        "z": "N D", "eps": "N D", "hidden_context": "N T M", "deps": "N D", "dlog_det": "N", "dz": "N D",
    } | _named(MADEFlowParams),
    "made": {
        "x": "N D", "y": "N D", "hidden_context": "N C", "gates": "N G", "dresult": "N D", "dlog_det": "N",
    } | _named(MADEParams),
    "dense": {"x": "N C", "weight": "K C", "bias": "K", "dy": "N K"},
    "exp": {"x": "n"},
    "bernoulli": {"x": "n", "logits": "n", "dy": "n"},
    "resnet": {"x": "N C H W", "dy": "N K h w", "kept": "N F"},
    "weight_norm": {"v": "R n", "g": "R", "live": "R", "dw": "R n"},
}  # fmt: skip
"""Op -> tensor -> its axes; gradients of outputs among them. A letter is the same size wherever it stands."""
OPTIONAL = {"gain", "residual", "given", "hidden_context", "gates"}
"""Tensors that may be None."""
DTYPES = {"given": torch.int8, "live": torch.int64, "params.degrees": torch.int64, "params.positions": torch.int64}
"""Of those that are not float32."""


def check_sizes(op: str, sizes: Mapping[str, int]) -> None:
    """Raises ValueError where the sizes of a call fit the table but not one another."""
    if op == "pixelcnn" and sizes["S"] not in (1, sizes["L"]):
        raise ValueError(f"params.hidden_weight: 1 (tied) or L={sizes['L']} weights wanted, got {sizes['S']}")
    if op == "made_flow":
        T, D, M, R = (sizes[letter] for letter in "TDMR")
        if R not in (D, 2 * D):
            raise ValueError(f"params.bias3: [T, {D}] or [T, {2 * D}] wanted, got {[T, R]}")
        if M and not D:
            raise ValueError(f"params: {M} hidden units without inputs; there are no degrees for them")
