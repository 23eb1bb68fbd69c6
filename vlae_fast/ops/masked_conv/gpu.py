"""Launches of kernels/masked_conv.py."""

import torch
from torch import Tensor

from vlae_fast.kernels.table import PRECISION
from vlae_fast.masks import taps3x3
from vlae_fast.ops.arguments import operands
from vlae_fast.ops.launch import cdiv, check_counts, config_of, kernels_of, resident_programs

__all__ = ["masked_conv3x3", "masked_conv3x3_backward"]


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
    sizes = operands("masked_conv3x3", None, x=x, weight=weight, bias=bias, gain=gain, residual=residual)
    N, C, K, H, W = (sizes[a] for a in "NCKHW")
    taps = taps3x3(mask)
    check_counts(pixels=2 * H * W, weights=9 * K * C)
    kernels = kernels_of("masked_conv", x)
    y = x.new_empty(N, K, H, W)
    if y.numel():
        config = config_of("masked_conv3x3", K, x)
        grid = cdiv(N * H * W, config.block), cdiv(K, kernels.GROUP)
        constants = {"TAPS": taps, "PRE_ELU": pre_elu}
        with torch.cuda.device_of(x):
            kernels.masked_conv3x3_forward_kernel[grid](
                x, weight, bias, gain, residual, y, N, C, K, H, W, residual_scale, **constants,
                GROUP=kernels.GROUP, BLOCK=config.block, num_warps=config.num_warps,
            )  # fmt: skip
    return y


def masked_conv3x3_backward(
    dy: Tensor, x: Tensor, weight: Tensor, gain: Tensor | None, mask: str, pre_elu: bool, residual_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients (dx, dweight, dbias, dgain) of `masked_conv3x3`; dgain is empty without gain."""
    named = operands("masked_conv3x3", None, x=x, weight=weight, gain=gain, dy=dy)
    N, C, K, H, W = sizes = [named[a] for a in "NCKHW"]
    taps = taps3x3(mask)
    check_counts(pixels=2 * H * W, weights=9 * K * C)
    kernels = kernels_of("masked_conv", x)
    dx = torch.empty_like(x)
    constants = {"TAPS": taps, "PRE_ELU": pre_elu}
    with torch.cuda.device_of(x):
        if dx.numel():
            config = config_of("masked_conv3x3", C, x)
            grid: tuple[int, ...] = (cdiv(N * H * W, config.block), cdiv(C, kernels.GROUP))
            kernels.masked_conv3x3_backward_input_kernel[grid](
                dy, x, weight, gain, dx, *sizes, residual_scale, **constants, GROUP=kernels.GROUP, BLOCK=config.block,
                num_warps=config.num_warps,
            )  # fmt: skip
        config = config_of("masked_conv3x3_weight", K, x)
        rows = C * taps + 1
        programs = min(resident_programs(x, config), cdiv(N * H * W, config.block))
        sums = x.new_empty(programs, rows, K)
        if sums.numel():
            kernels.masked_conv3x3_backward_weight_kernel[(programs, cdiv(rows, kernels.TILE), cdiv(K, 16))](
                dy, x, sums, *sizes, **constants, TILE=kernels.TILE, BLOCK=config.block, PRECISION=PRECISION,
                num_warps=config.num_warps,
            )  # fmt: skip
    total = residual_scale * sums.sum(0)
    filters = total[:-1].view(C, taps, K).permute(2, 0, 1)
    dweight = torch.zeros_like(weight)
    dweight.flatten(2)[..., :taps] = filters if gain is None else gain[:, None, None] * filters
    dgain = x.new_empty(0) if gain is None else (weight.flatten(2)[..., :taps] * filters).sum((1, 2))
    return dx, dweight, total[-1].clone(), dgain
