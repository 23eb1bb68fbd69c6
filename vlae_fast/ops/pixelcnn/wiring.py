"""The wiring as the bodies take it: the rows of `PixelCNNSpec.stages` in the memory of a device."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from vlae_fast.config import PixelCNNSpec
from vlae_fast.params import PixelCNNParams

__all__ = ["stage_table", "wiring"]


def wiring(spec: PixelCNNSpec, params: Sequence[Tensor]) -> tuple[list[int], float, int]:
    """What the bodies take of a spec, for params (the fields of PixelCNNParams): stages, residual_scale, stride."""
    named = PixelCNNParams(*params)
    stages = _stages(spec, len(named.hidden_gain), len(named.pointwise_weight))
    return [*stages], spec.residual_scale, spec.visible_stride


@cache
def _stages(spec: PixelCNNSpec, L: int, P: int) -> tuple[int, ...]:
    return tuple(number for row in spec.stages(L, P) for number in row)


def stage_table(stages: Sequence[int], visible_stride: int, sizes: Mapping[str, int], device: torch.device) -> Tensor:
    """[L + 2P + 1, 3] int32; the last row, of zeros, is an end.

    Raises ValueError where a kernel that follows the table would leave its memory. Kept for good, so that a CUDA graph
    may go on reading it; only the first call of a wiring on a GPU waits.
    """
    return _table(tuple(stages), visible_stride, sizes["L"], sizes["P"], device)


@cache
def _table(stages: tuple[int, ...], visible_stride: int, L: int, P: int, device: torch.device) -> Tensor:
    rows = [stages[i : i + 2] for i in range(0, len(stages), 3)]
    wanted = [*((1, index) for index in range(2 * P)), *((5, layer) for layer in range(L))]
    if sorted(rows) != wanted or not set(stages[2::3]) <= {0, 1} or stages[-1:] not in ((), (1,)):
        raise ValueError(f"spec: stages that fit L = {L}, P = {P} wanted, got {list(stages)}")
    if visible_stride < 1:
        raise ValueError(f"spec: visible_stride: at least 1 wanted, got {visible_stride}")
    return torch.tensor([*stages, 0, 0, 0], dtype=torch.int32, device=device).view(-1, 3)
