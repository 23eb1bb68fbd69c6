"""Pictures as PNG files: grids of images and curves of a training."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import checkpoint
from vlae_fast.checks import instance, real, shown, whole
from vlae_fast.extra import cli_extra
from vlae_fast.inputs import check_dense

with cli_extra():
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["curves", "grid_of", "image_grid", "pairs"]

Row = dict[str, Any]

MAX_PIXELS = 2**28
"""Of a grid; it is made in 1 GB of memory."""


def _check(name: str, images: Any) -> tuple[int, int, int]:
    """N, H and W of images. Raises TypeError or ValueError that names the argument."""
    check_dense(name, images)
    if images.dim() != 4 or images.shape[1] != 1 or 0 in images.shape:
        raise ValueError(f"{name}: shape [N, 1, H, W], none of them 0, wanted, got {list(images.shape)}")
    if images.is_complex() or images.is_quantized:
        raise TypeError(f"{name}: real numbers wanted, got {images.dtype}")
    if images.is_meta or not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"{name}: values in 0..1 wanted, got {shown(images)}")
    return images.shape[0], images.shape[2], images.shape[3]


def grid_of(n: int, height: int, width: int, columns: int) -> tuple[int, int]:
    """Rows of the grid of n images, and how much each is enlarged.

    Raises TypeError or ValueError for what is no such number, ValueError for a picture of too many pixels.
    """
    sizes = {"n": n, "height": height, "width": width, "columns": columns}
    n, height, width, columns = (whole(name, size, 1) for name, size in sizes.items())
    zoom, rows = min(3, max(1, 84 // max(height, width))), -(-n // columns)
    pixels = rows * (height + 1) * columns * (width + 1) * zoom**2
    if pixels > MAX_PIXELS:
        raise ValueError(f"images: {n:,} of them make a picture of {pixels:,} pixels, at most {MAX_PIXELS:,} wanted")
    return rows, zoom


def image_grid(images: Tensor, columns: int, path: str | Path) -> None:
    """Writes images [N, 1, H, W] in 0..1 (1 is ink, drawn dark) as a grid with grey lines between them.

    Small ones are enlarged, up to three times. Raises TypeError or ValueError for no such images, and for a grid of
    more than MAX_PIXELS.
    """
    N, H, W = _check("images", images)
    columns = whole("columns", columns, 1)
    rows, zoom = grid_of(N, H, W, columns)
    canvas = np.full((rows * (H + 1) + 1, columns * (W + 1) + 1), 160, np.uint8)
    for i, image in enumerate(((1 - images[:, 0].float()) * 255).round().to(torch.uint8).cpu().numpy()):
        top, left = i // columns * (H + 1) + 1, i % columns * (W + 1) + 1
        canvas[top : top + H, left : left + W] = image
    content = BytesIO()
    Image.fromarray(canvas.repeat(zoom, 0).repeat(zoom, 1)).save(content, format="PNG")
    checkpoint.write_file(path, content.getvalue())


def pairs(left: Tensor, right: Tensor, path: str | Path, columns: int = 6) -> None:
    """Writes images side by side: each of `left` with its partner in `right`, both [N, 1, H, W].

    Raises TypeError or ValueError where they are not.
    """
    sizes, columns = _check("left", left), whole("columns", columns, 1)
    if _check("right", right) != sizes:
        raise ValueError(f"right: shape {list(left.shape)}, that of left, wanted, got {list(right.shape)}")
    image_grid(torch.stack([left, right], 1).flatten(0, 1), 2 * columns, path)


def curves(rows: Sequence[Row], path: str | Path) -> None:
    """Writes the bound and the KL in nats over the epochs, from the rows of a `metrics.jsonl`.

    Raises TypeError or ValueError where there are none, or their numbers are missing.
    """
    wanted = (
        "epoch",
        *(f"{split}_{what}" for split in ("train", "valid") for what in ("negative_elbo_nats", "kl_nats")),
    )
    for i, row in enumerate(instance("rows", rows, list)):
        for name in wanted:
            real(f"rows[{i}][{name!r}]", instance(f"rows[{i}]", row, dict).get(name))
    if not rows:
        raise ValueError("rows: one or more lines of a metrics.jsonl wanted, got none")
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("negative_elbo_nats", "kl_nats"), strict=True):
        for split in ("train", "valid"):
            axes.plot([row["epoch"] for row in rows], [row[f"{split}_{what}"] for row in rows], label=split, marker=".")
        axes.set(xlabel="epoch", ylabel=what.replace("_", " ").replace("nats", "(nats)"))
        axes.grid(alpha=0.3)
        axes.legend()
    bounds = [row["valid_negative_elbo_nats"] for row in rows]
    figure.axes[0].set_ylim(min(bounds) - 1, sorted(bounds)[len(bounds) // 2] + 10)
    content = BytesIO()
    figure.savefig(content, dpi=120, format="png")
    checkpoint.write_file(path, content.getvalue())
