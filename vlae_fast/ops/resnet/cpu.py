"""CPU bodies of `resnet`: addresses and sizes go to the compiled C++ (csrc/vlae.h)."""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from vlae_fast import _native
from vlae_fast.ops.arguments import operands
from vlae_fast.ops.resnet.wiring import Row, checked_rows, kept_floats, names_of, result_of

__all__ = ["resnet", "resnet_backward"]

_CPU = torch.device("cpu")


def _table(x: Tensor, rows: Sequence[Row], residual_scale: float) -> "tuple[array[int], tuple[int | float, ...]]":
    """The blocks in memory, and ResNet of csrc/vlae.h, which points there."""
    blocks = array("q", [number for row in rows for number in row])
    N, _, H, W = x.shape
    return blocks, (N, H, W, len(rows), blocks.buffer_info()[0], residual_scale)


def _addresses(tensors: Sequence[Tensor], rows: Sequence[Row]) -> "array[int]":
    """Six for each block, 0 where it has no such tensor."""
    numbers, rest = array("Q"), iter(tensors)
    for row in rows:
        numbers.extend(next(rest).data_ptr() if i < len(names_of(row)) else 0 for i in range(6))
    return numbers


def resnet(
    x: Tensor, params: list[Tensor], table: list[int], residual_scale: float, keep: bool = False
) -> tuple[Tensor, Tensor]:
    """See `vlae_fast.reference.resnet`, and kept [N, F] for the backward pass (else [N, 0], and it runs this again).

    `params` and `table` as `wiring.flat` makes them.
    """
    operands("resnet", _CPU, x=x)
    rows = checked_rows(x, params, table, _CPU)
    y = x.new_empty([len(x), *result_of(table)])
    kept = x.new_empty(len(x), kept_floats(x.shape, table) if keep else 0)
    blocks, net = _table(x, rows, residual_scale)
    weights = _addresses(params, rows)
    threads = torch.get_num_threads()
    _native.resnet_forward(net, weights.buffer_info()[0], x.data_ptr(), threads, y.data_ptr(), _address(kept))
    del blocks  # alive until now
    return y, kept


def _address(kept: Tensor) -> int:
    return kept.data_ptr() if kept.numel() else 0


def resnet_backward(
    dy: Tensor, x: Tensor, params: list[Tensor], table: list[int], residual_scale: float, kept: Tensor
) -> list[Tensor]:
    """Gradients [dx, *dparams] of `resnet`, which gave `kept`."""
    operands("resnet", _CPU, x=x, dy=dy, kept=kept)
    rows = checked_rows(x, params, table, _CPU, dy, kept)
    gradients = [torch.empty_like(t) for t in (x, *params)]
    blocks, net = _table(x, rows, residual_scale)
    weights, dweights = _addresses(params, rows), _addresses(gradients[1:], rows)
    _native.resnet_backward(
        net,
        weights.buffer_info()[0],
        dy.data_ptr(),
        x.data_ptr(),
        _address(kept),
        torch.get_num_threads(),
        gradients[0].data_ptr(),
        dweights.buffer_info()[0],
    )
    del blocks  # alive until now
    return gradients
