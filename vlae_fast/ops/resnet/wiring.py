"""A row of residual blocks as the bodies take it: tensors in a flat list, and a table of numbers, six a block."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlae_fast.checks import shown
from vlae_fast.params import ResNetBlockParams, resnet_block

__all__ = ["KINDS", "Row", "checked_rows", "flat", "flops", "result_of", "unflat", "wiring"]

KINDS = ("same", "down", "up", "output")
"""Their numbers in csrc/vlae.h."""
TENSORS = ResNetBlockParams._fields[1:-1]
"""Names of a block's tensors."""


class Row(NamedTuple):
    """ResNetBlock of csrc/vlae.h: channels of input, middle and result, and the result's rows and columns."""

    kind: int
    C: int
    M: int
    K: int
    H: int
    W: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that a block of this kind has."""
        return TENSORS[: {"same": 4, "output": 2}.get(KINDS[self.kind], 6)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes."""
        C, M, K, up = self.C, self.M, self.K, KINDS[self.kind] == "up"
        shapes = {
            "conv1_weight": (M, C, 3, 3),
            "conv1_bias": (M,),
            "conv2_weight": (M, K, 3, 3) if up else (K, M, 3, 3),
            "conv2_bias": (K,),
            "skip_weight": (C, K, 3, 3) if up else (K, C, 3, 3),
            "skip_bias": (K,),
        }
        return {name: shapes[name] for name in self.tensors}


def wiring(shape: Sequence[int], blocks: Sequence[ResNetBlockParams]) -> list[Row]:
    """A row for each block, for images of this shape [N, C, H, W].

    Raises TypeError or ValueError that names the block's field; shapes of tensors are not looked at but for those that
    tell the number of channels.
    """
    if not isinstance(blocks, Sequence) or not all(isinstance(block, ResNetBlockParams) for block in blocks):
        raise TypeError(f"blocks: a list of ResNetBlockParams wanted, got {shown(blocks)}")
    _, C, H, W = shape
    if not blocks or H < 1 or W < 1:
        raise ValueError(
            f"blocks: one or more, for images of 1x1 pixels or more, wanted, got {len(blocks)} for {H}x{W}"
        )
    rows = []
    for i, block in enumerate(blocks):
        if block.kind not in KINDS:
            raise ValueError(f"blocks[{i}].kind: one of {', '.join(KINDS)} wanted, got {block.kind!r}")
        H, W = _size(f"blocks[{i}].size", block, H, W)
        last = block.conv1_bias if block.kind == "output" else block.conv2_bias
        M, K = (_channels(f"blocks[{i}]", block, bias) for bias in (block.conv1_bias, last))
        if block.kind == "same" and K != C:
            raise ValueError(f"blocks[{i}].conv2_bias: C={C} channels as those of its input wanted, got {K}")
        rows.append(Row(KINDS.index(block.kind), C, M, K, H, W))
        C = K
    return rows


def _channels(name: str, block: ResNetBlockParams, bias: Tensor | None) -> int:
    field = "conv1_bias" if bias is block.conv1_bias else "conv2_bias"
    if not isinstance(bias, Tensor):
        raise TypeError(f"{name}.{field}: a tensor wanted, got {type(bias).__name__}")
    if bias.dim() != 1:
        raise ValueError(f"{name}.{field}: one axis wanted, got shape {list(bias.shape)}")
    return bias.shape[0]


def _size(name: str, block: ResNetBlockParams, H: int, W: int) -> tuple[int, int]:
    """Rows and columns of a block's result."""
    if block.kind == "down":
        wanted = [((H + 1) // 2, (W + 1) // 2)]
    elif block.kind == "up":
        wanted = [(2 * H - i, 2 * W - j) for i in (0, 1) for j in (0, 1)]
    else:
        wanted = [(H, W)]
    size = wanted[0] if block.size is None else tuple(block.size)
    if size not in wanted:
        raise ValueError(f"{name}: one of {', '.join(f'{h}x{w}' for h, w in wanted)} wanted, got {shown(block.size)}")
    return size


def flat(blocks: Sequence[ResNetBlockParams], rows: Sequence[Row]) -> tuple[list[Tensor], list[int]]:
    """What the bodies take: all tensors, and the table."""
    tensors = [getattr(block, name) for block, row in zip(blocks, rows, strict=True) for name in row.tensors]
    return tensors, [number for row in rows for number in row]


def flops(x: Sequence[int], params: object, table: Sequence[int], *rest: object) -> int:
    """Of all multiplications and additions, borders included, for x of this shape."""
    total, (N, _, H, W) = 0, x
    for i in range(0, len(table), 6):
        row = Row(*table[i : i + 6])
        kind, C, M, K = KINDS[row.kind], row.C, row.M, row.K
        small = min(H * W, row.H * row.W)
        first = C * M * (small if kind == "down" else H * W)
        second = 0 if kind == "output" else M * K * small
        skip = C * K * small if kind in ("down", "up") else 0
        total += 18 * N * (first + second + skip)
        H, W = row.H, row.W
    return total


def result_of(table: Sequence[int]) -> list[int]:
    """Channels, rows and columns of the last block's result."""
    return list(table[-3:])


def unflat(params: Sequence[Tensor], table: Sequence[int]) -> Iterator[tuple[Row, dict[str, Tensor]]]:
    """Rows and tensors by name, block by block."""
    rest = iter(params)
    for i in range(0, len(table), 6):
        row = Row(*table[i : i + 6])
        yield row, dict(zip(row.tensors, rest, strict=False))


def checked_rows(
    x: Tensor, params: Sequence[Tensor], table: Sequence[int], device: torch.device, dy: Tensor | None = None
) -> list[Row]:
    """The rows, once no body can leave its memory. Raises TypeError or ValueError."""
    rows, (_, C, H, W) = [], x.shape
    blocks = list(unflat(params, table))
    if len(table) % 6 or not blocks or sum(len(tensors) for _, tensors in blocks) != len(params):
        raise ValueError(f"params: tensors that fit the table {list(table)} wanted, got {len(params)}")
    for i, (row, tensors) in enumerate(blocks):
        block = resnet_block(KINDS[row.kind], list(tensors.values()), (row.H, row.W))
        wanted = wiring((1, C, H, W), [block])[0]
        if row != wanted:
            raise ValueError(f"table: {list(wanted)} wanted for block {i}, got {list(row)}")
        for name, shape in row.shapes.items():
            t = tensors[name]
            if not isinstance(t, Tensor):
                raise TypeError(f"blocks[{i}].{name}: a tensor wanted, got {type(t).__name__}")
            if t.shape != shape or t.dtype != torch.float32 or t.device != device or not t.is_contiguous():
                raise ValueError(
                    f"blocks[{i}].{name}: a contiguous float32 tensor of shape {list(shape)} on {device} wanted, got "
                    f"{t.dtype} {list(t.shape)} on {t.device}"
                )
        rows.append(row)
        C, H, W = row.K, row.H, row.W
    if dy is not None and list(dy.shape) != [len(x), C, H, W]:
        raise ValueError(f"dy: shape {[len(x), C, H, W]} wanted, got {list(dy.shape)}")
    return rows
