"""A row of residual blocks as the bodies take it: tensors in a flat list, and a table of numbers, six a block."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from vlae_fast.checks import shown
from vlae_fast.params import ResNetBlockParams

__all__ = [
    "KINDS",
    "Row",
    "checked_rows",
    "flat",
    "flops",
    "kept_floats",
    "names_of",
    "result_of",
    "shapes_of",
    "unflat",
    "wiring",
]

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


def names_of(row: Row) -> tuple[str, ...]:
    """Names of the tensors that a block of this kind has."""
    return TENSORS[: (4, 6, 6, 2)[row.kind]]  # of KINDS


@cache
def shapes_of(row: Row) -> dict[str, tuple[int, ...]]:
    """Shapes of the block's tensors by name."""
    _, C, M, K, *_ = row
    up = KINDS[row.kind] == "up"
    shapes = {
        "conv1_weight": (M, C, 3, 3),
        "conv1_bias": (M,),
        "conv2_weight": (M, K, 3, 3) if up else (K, M, 3, 3),
        "conv2_bias": (K,),
        "skip_weight": (C, K, 3, 3) if up else (K, C, 3, 3),
        "skip_bias": (K,),
    }
    return {name: shapes[name] for name in names_of(row)}


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
    wanted = _sizes(block.kind, H, W)
    if block.size is None:
        return wanted[0]
    given = tuple(block.size) if isinstance(block.size, (tuple, list)) else block.size
    for size in wanted:
        if size == given:
            return size
    raise ValueError(f"{name}: one of {', '.join(f'{h}x{w}' for h, w in wanted)} wanted, got {shown(block.size)}")


def _sizes(kind: str, H: int, W: int) -> list[tuple[int, int]]:
    """What a block can make of H x W pixels; the usual one first."""
    if kind == "down":
        return [((H + 1) // 2, (W + 1) // 2)]
    return [(2 * H - i, 2 * W - j) for i in (0, 1) for j in (0, 1)] if kind == "up" else [(H, W)]


def flat(blocks: Sequence[ResNetBlockParams], rows: Sequence[Row]) -> tuple[list[Tensor], list[int]]:
    """What the bodies take: all tensors, and the table."""
    tensors = [getattr(block, name) for block, row in zip(blocks, rows, strict=True) for name in names_of(row)]
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


def kept_floats(x: Sequence[int], table: Sequence[int]) -> int:
    """Of what the CPU body keeps of each of x (its shape) for the backward pass: see ResNetForward of csrc/vlae.h."""
    total, (_, _, H, W) = 0, x
    for i in range(0, len(table), 6):
        row = Row(*table[i : i + 6])
        kind = KINDS[row.kind]
        h, w = (row.H, row.W) if kind == "down" else (H, W)
        total += ((4 if kind == "down" else 1) * row.C + (0 if kind == "output" else row.M)) * h * (w + 1)
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
        yield row, dict(zip(names_of(row), rest, strict=False))


@cache
def _rows(C: int, H: int, W: int, table: tuple[int, ...]) -> tuple[Row, ...]:
    """The rows of a table, once each fits what comes before it. Raises ValueError."""
    rows = tuple(Row(*table[i : i + 6]) for i in range(0, len(table) - 5, 6))
    fits = len(table) == 6 * len(rows) > 0 and H > 0 and W > 0
    for row in rows:
        kind = KINDS[row.kind] if row.kind in range(len(KINDS)) else ""
        fits = fits and kind != "" and row.C == C and min(row.M, row.K) >= 0 and (row.H, row.W) in _sizes(kind, H, W)
        fits = fits and {"same": C, "output": row.M}.get(kind, row.K) == row.K
        _, _, _, C, H, W = row
    if not fits:
        raise ValueError(f"table: six numbers for each block, as `wiring` makes them, wanted, got {list(table)}")
    return rows


def checked_rows(
    x: Tensor,
    params: Sequence[Tensor],
    table: Sequence[int],
    device: torch.device,
    dy: Tensor | None = None,
    kept: Tensor | None = None,
) -> tuple[Row, ...]:
    """The rows, once no body can leave its memory. Raises TypeError or ValueError."""
    N, C, H, W = x.shape
    rows = _rows(C, H, W, tuple(table))
    wanted = [(i, name, shape) for i, row in enumerate(rows) for name, shape in shapes_of(row).items()]
    if len(wanted) != len(params):
        raise ValueError(f"params: {len(wanted)} tensors wanted, got {len(params)}")
    for (i, name, shape), t in zip(wanted, params, strict=True):
        if not isinstance(t, Tensor):
            raise TypeError(f"blocks[{i}].{name}: a tensor wanted, got {type(t).__name__}")
        if t.shape != shape or t.dtype != torch.float32 or t.device != device or not t.is_contiguous():
            raise ValueError(
                f"blocks[{i}].{name}: a contiguous float32 tensor of shape {list(shape)} on {device} wanted, got "
                f"{t.dtype} {list(t.shape)} on {t.device}"
            )
    if dy is not None and list(dy.shape) != [N, *result_of(table)]:
        raise ValueError(f"dy: shape {[N, *result_of(table)]} wanted, got {list(dy.shape)}")
    if kept is not None and kept.shape[1] not in (0, kept_floats(x.shape, table)):
        raise ValueError(f"kept: shape {[N, kept_floats(x.shape, table)]} or {[N, 0]} wanted, got {list(kept.shape)}")
    return rows
