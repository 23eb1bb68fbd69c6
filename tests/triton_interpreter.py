"""For tests of the Triton kernels on CPU tensors: memory with NaN on both sides, before anything is written to it.

A load that a mask should have stopped brings NaN into the result; a store beyond an output's end overwrites NaN.
"""

import math

import pytest
import torch
from torch import Tensor

MARGIN = 2048


class Poison:
    """Tensors inside of larger ones that are full of NaN."""

    def __init__(self) -> None:
        self.around: list[tuple[Tensor, int]] = []

    def empty(self, shape, dtype=torch.float32) -> Tensor:
        """Like torch.empty, of NaN; of 99 where there is no NaN."""
        size = math.prod(shape)
        buffer = torch.full((size + 2 * MARGIN,), float("nan") if dtype.is_floating_point else 99, dtype=dtype)
        self.around.append((buffer, size))
        return buffer[MARGIN : MARGIN + size].view(shape)

    def copy(self, tensor: Tensor | None) -> Tensor | None:
        """An input between NaNs."""
        return None if tensor is None else self.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def check(self) -> None:
        """Nothing was written around any of the tensors."""
        for buffer, size in self.around:
            outside = torch.cat([buffer[:MARGIN], buffer[MARGIN + size :]])
            assert (outside.isnan() if buffer.is_floating_point() else outside == 99).all()


@pytest.fixture
def poison(monkeypatch):
    """A Poison that also gives out the memory of `torch.empty_like` and `new_empty`: outputs and scratch."""
    poison = Poison()
    new_empty = Tensor.new_empty

    def empty(tensor, *shape, **rest):
        return new_empty(tensor, *shape, **rest) if rest else poison.empty(shape, tensor.dtype)

    monkeypatch.setattr(torch, "empty_like", lambda t: poison.empty(t.shape, t.dtype))
    monkeypatch.setattr(Tensor, "new_empty", empty)  # the interpreter's own calls pass a device, ours nothing
    return poison
