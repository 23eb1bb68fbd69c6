"""CPU bodies of `masked_conv3x3`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.masks import taps3x3
from vlae_fast.ops import values
from vlae_fast.ops.arguments import addresses, operands

__all__ = ["masked_conv3x3", "masked_conv3x3_backward"]

_CPU = torch.device("cpu")


def _sizes(sizes: dict[str, int], mask: str, pre_elu: bool, residual_scale: float) -> tuple[float, ...]:
    """Conv3x3 of csrc/vlae.h."""
    return *(sizes[a] for a in "NCKHW"), taps3x3(mask), pre_elu, residual_scale


def masked_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gain: Tensor | None,
    residual: Tensor | None,
    mask: str,
    pre_elu: bool,
    residual_scale: float,
) -> Tensor:
    """See `vlae_fast.reference.masked_conv3x3`."""
    sizes = operands("masked_conv3x3", _CPU, x=x, weight=weight, bias=bias, gain=gain, residual=residual)
    values.finite(x=x, residual=residual)
    y = x.new_empty([sizes[a] for a in "NKHW"])
    inputs = addresses(x, weight, bias, gain, residual)
    _native.masked_conv3x3(_sizes(sizes, mask, pre_elu, residual_scale), *inputs, torch.get_num_threads(), y.data_ptr())
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    sizes = operands("masked_conv3x3", _CPU, x=x, weight=weight, gain=gain, dy=dy)
    dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), x.new_empty(sizes["K"])
    dgain = x.new_empty(0 if gain is None else sizes["K"])
    inputs, outputs = addresses(dy, x, weight, gain), addresses(dx, dweight, dbias, dgain)
    _native.masked_conv3x3_backward(
        _sizes(sizes, mask, pre_elu, residual_scale), *inputs, torch.get_num_threads(), *outputs
    )
    return dx, dweight, dbias, dgain
